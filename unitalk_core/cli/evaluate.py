"""Measure a model on held-out clips: words, sync, voice and face, each beside chance and the truth.

python -m unitalk_core evaluate --model tiny --suite heldout --out report.json
python -m unitalk_core evaluate --lora anna/lora.safetensors --like anna/clips --clips 20

report.json holds the measures by name, and report.png beside it shows some of the clips.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .bundle import add_lora, load

if TYPE_CHECKING:
    from tqdm import tqdm

    from ..evaluation.held_out import Result
    from ..pipeline import Bundle

SUITES = {"heldout": 104}  # name -> clips
LIKE_CLIPS = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default="tiny", help="tiny, which comes with the pack, or a folder like it"
    )
    add_lora(parser)
    parser.add_argument(
        "--suite", choices=SUITES, default="heldout", help="two takes of texts never trained on (heldout)"
    )
    parser.add_argument(
        "--like", metavar="FOLDER", help="instead: how much clips look and sound like the person of these"
    )
    parser.add_argument("--clips", type=int, help="how many held-out clips, 8 or more (104; with --like 40)")
    parser.add_argument("--seed", type=int, default=0, help="chance (0)")
    parser.add_argument("--processes", type=int, default=1, help="that make clips side by side (1)")
    parser.add_argument("--out", metavar="FILE.json", help="write the measures, and pictures into FILE.png")


def run(args: argparse.Namespace) -> int:
    """Print a table of the measures; a missed threshold is marked in it and is no error."""
    from tqdm import tqdm

    from ..evaluation.measures import table
    from ..evaluation.page import draw_page
    from ..media import check_target
    from .sample import write_report

    if args.out is not None:
        out = check_target(args.out, ".json")
        page = check_target(out.with_suffix(".png"), ".png")
    if args.clips is None:
        args.clips = SUITES[args.suite] if args.like is None else LIKE_CLIPS
    bundle, shown = load(args), []
    start = time.perf_counter()
    with tqdm(unit="clip", delay=0.2) as bar:
        measures = measure(args, bundle, shown, bar)
    made_on = about(args, time.perf_counter() - start)
    print(table(measures))
    print(made_on)
    if args.out is not None:
        write_report(out, measures)
        if shown:
            draw_page(shown, page, made_on)
    return 0


def measure(args: argparse.Namespace, bundle: Bundle, shown: list[Result], bar: tqdm) -> dict[str, Any]:
    """The measures by name; `shown` gets clips for the page."""
    from ..evaluation.likeness import likeness
    from ..evaluation.report import evaluate

    def count(done: int, of: int) -> None:
        bar.total = of
        bar.update(done - bar.n)

    given = {"clips": args.clips, "seed": args.seed, "on_clip": count, "processes": args.processes}
    if args.like is not None:
        return likeness(Path(args.like), bundle, **given)
    return evaluate(bundle, shown=shown, **given)


def about(args: argparse.Namespace, seconds: float) -> str:
    """What was measured, and where."""
    import torch

    names = " + ".join(Path(one).name for one in (args.model, *args.lora))
    what = f"{names} · {args.like or args.suite} · {args.clips} clips"
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, torch {torch.__version__}"
    return f"{what} · seed {args.seed} · {seconds:.0f} s on {system}"
