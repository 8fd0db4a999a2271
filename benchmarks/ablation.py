"""What does each choice in the miniature's second stage do? The same budget without it.

python benchmarks/ablation.py RECIPE [--steps 500] [--clips 24] [--only NAME ...]

RECIPE is a folder in which `unitalk_core.training.miniature` has come as far as the stills. Each
variant changes one thing and trains in RECIPE/ablation/NAME, with the recipe's own settings otherwise and as
many steps. What is there is not made again; to have it made again, delete RECIPE/ablation/NAME.

window-late trains in two runs, of which the second, without the window, begins with a new optimiser and a new
schedule: beside base it shows what both do together.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from unitalk_core.cli.sample import write_report
from unitalk_core.config import TINY
from unitalk_core.evaluation.report import check, evaluate
from unitalk_core.media import check_target
from unitalk_core.pipeline import load_bundle
from unitalk_core.training.claim import begun, stored_config
from unitalk_core.training.miniature import Recipe
from unitalk_core.training.result import MODEL
from unitalk_core.weights.loading import load_embedded

log = logging.getLogger("unitalk")

TASKS = ("text", "couple_off", "dub", "drive")
ASKED = ("words.all", "sync.r", "sync.own_wins", "sync.lag_control")  # of each task that has them
KEPT = ("value", "low", "high")
COMPILED = 100  # steps that win back the time of compiling
FOLDER, REPORT = "ablation", "report.json"
RESULTS = Path(__file__).parent / "results" / "ablation.json"


class Variant(NamedTuple):
    """What is not as in the second stage of the recipe.

    stage1: False draws the sound stream anew beside a picture stream that draws already, as the papers'
    does; window: `couple_window` in seconds; opened: without one for the last third.
    """

    changes: tuple[str, ...] = ()
    stage1: bool = True
    window: float | None = TINY.couple_window
    opened: bool = False


VARIANTS = {
    "base": Variant(),
    "no-stage1": Variant(stage1=False),
    "couple-off": Variant(("drop.couple=1",)),
    "mouth-0": Variant(("loss.mouth=0",)),
    "mouth-5": Variant(("loss.mouth=5",)),
    "window-none": Variant(window=None),
    "window-late": Variant(opened=True),
}


class Part(NamedTuple):
    """A run of `train` in a folder of its own."""

    out: Path
    steps: int
    window: float | None


def main() -> None:
    parser = argparse.ArgumentParser(description="The second stage without one of its choices at a time.")
    parser.add_argument("recipe", type=Path, help="a folder that the recipe of the miniature has filled")
    parser.add_argument("--steps", type=int, default=500, help="of each variant (500)")
    parser.add_argument("--clips", type=int, default=24, help="held-out clips of each task (24)")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE.json")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    recipe = Recipe(args.recipe)
    try:
        check_first(recipe, args)
    except (ValueError, OSError, ImportError) as error:
        parser.error(str(error))
    for name in args.only:
        model = trained(recipe, name, args.steps)
        measured(recipe, name, model, args)
        write_report(args.out, results(recipe, args))
    print(table(results(recipe, args)["rows"]))


def check_first(recipe: Recipe, args: argparse.Namespace) -> None:
    """What cannot be done, before the first step. ValueError, OSError or ImportError of one sentence."""
    check_target(args.out, ".json")
    if args.steps < 2:
        raise ValueError(f"a variant needs at least 2 steps, got {args.steps}")
    for needed in (recipe.out / "stage1" / MODEL, recipe.out / "clips", recipe.file("stills")):
        if not needed.exists():
            raise FileNotFoundError(f"{recipe.out} has no {needed.relative_to(recipe.out)}; run the recipe")
    check(load_bundle(str(recipe.out / "stage1" / MODEL)), args.clips, TASKS)
    for part in (part for name in args.only for part in parts(recipe, name, args.steps)):
        if begun(part.out) and (steps := stored_config(part.out).steps) != part.steps:
            raise ValueError(
                f"{part.out} has a run of {steps} steps, not {part.steps}; delete {part.out.parent}"
            )


# --- training --------------------------------------------------------------------------------------------


def parts(recipe: Recipe, name: str, steps: int) -> list[Part]:
    """The runs of a variant, of which each goes on where the one before ends."""
    variant, folder = VARIANTS[name], recipe.out / FOLDER / name
    last = round(steps / 3) if variant.opened else 0
    runs = [Part(folder / "run", steps - last, variant.window), Part(folder / "opened", last, None)]
    return [part for part in runs if part.steps]


def trained(recipe: Recipe, name: str, steps: int) -> Path:
    """The folder of the model that a variant ends with."""
    variant = VARIANTS[name]
    start = recipe.from_stills()
    if not variant.stage1:
        start.model.audio_model.load_state_dict(recipe.from_nothing().model.audio_model.state_dict())
    for i, part in enumerate(parts(recipe, name, steps)):
        if not (part.out / MODEL).is_dir():
            log.info("%s: %d steps in %s", name, part.steps, part.out)
            start = start._replace(config=replace(start.config, couple_window=part.window))
            recipe.train("stage2", start, part.out, (*settings(part, recipe.seed + i), *variant.changes))
        start = load_embedded(part.out / MODEL)
    return part.out / MODEL


def settings(part: Part, seed: int) -> tuple[str, ...]:
    """seed: another one for another part, or it would see the same clips and noise again."""
    compiled = str(part.steps >= COMPILED).lower()
    return (f"steps={part.steps}", f"seed={seed}", f"memory.compile={compiled}", "checkpoints.keep=1")


# --- measuring -------------------------------------------------------------------------------------------


def measured(recipe: Recipe, name: str, model: Path, args: argparse.Namespace) -> None:
    """Leave a variant's measures in its folder, unless they are there."""
    if name in results(recipe, args)["rows"]:
        return
    with tqdm(desc=name, unit="clip", delay=0.2) as bar:

        def count(done: int, of: int) -> None:
            bar.total = of
            bar.update(done - bar.n)

        measures = evaluate(load_bundle(str(model)), args.clips, on_clip=count, tasks=TASKS)
    asked = {one: found for one, found in measures.items() if one.endswith(ASKED)}
    row = {one: {key: found[key] for key in KEPT} for one, found in asked.items()}
    write_report(report_of(recipe, name), {"steps": args.steps, "clips": args.clips, "row": row})


def report_of(recipe: Recipe, name: str) -> Path:
    return recipe.out / FOLDER / name / REPORT


def results(recipe: Recipe, args: argparse.Namespace) -> dict[str, Any]:
    """The rows of all variants that were trained and measured so, and on what."""
    files = {name: report_of(recipe, name) for name in VARIANTS}
    reports = {name: json.loads(file.read_text("utf8")) for name, file in files.items() if file.is_file()}
    alike = {"steps": args.steps, "clips": args.clips}
    return {
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "espeakng-loader", "pocketsphinx")},
        **alike,
        "rows": {name: one["row"] for name, one in reports.items() if alike.items() <= one.items()},
    }


def table(rows: dict[str, dict[str, dict[str, float]]]) -> str:
    """A line for each measure, a column for each variant."""
    lines = [line(["measure", *rows]), line(["---"] * (1 + len(rows)))]
    for name in next(iter(rows.values())):
        cells = ("{value:.2f} [{low:.2f}, {high:.2f}]".format(**row[name]) for row in rows.values())
        lines.append(line([name, *cells]))
    return "\n".join(lines)


def line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
