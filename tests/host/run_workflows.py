"""Run every shipped workflow: in the browser of one ComfyUI, through the API of that and of an older one.

python -m tests.host.run_workflows OUT [NAME ...] [--older PATH] [--quick] [--pictures] [--skip ...]

OUT keeps what was seen, so that a run of some NAMEs adds to the last one. Those that name published files get
stand-ins (tests/host/stand_ins.py), which take 7 GB in OUT. docs/workflows.md gets the table, with --pictures
help pages and workflows get their pictures. ComfyUI is found as the tests find it.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from tests.host import stand_ins
from tests.host.chromium import drive
from tests.host.conftest import Host, host_at, places
from tests.host.pictures import draw_nodes, draw_thumbnails
from tests.host.serving import Server
from tests.host.shipped import NAMES, SMALL, Graph, problems, read
from tests.rules.node_table import ROOT
from unitalk_core.data.synthetic_folder import write_clips
from unitalk_core.weights.files import save_tensors

PAGE = ROOT / "docs" / "workflows.md"
NEEDS_FILES = ("a_new_model", "full_model_with_a_voice", "original_files", "ovi_talking_clip")
TRAININGS = ("train_a_character", "train_a_model")  # always shortened
LAST = ("second_stage", *TRAININGS)  # it reads what takes wrote; they take longest
LORA_LAYER = "diffusion_model.{}_model.blocks.0.self_attn.q.{}.weight"
HEAD = """# The workflows, run

Written by `python -m tests.host.run_workflows OUT --older PATH`.

- **browser**: the file was dropped on the canvas of the real frontend, no node was missing, the prompt was
  that of the API file, Run was pressed, every video played in its node, and no node lay over another
- **API**: `workflows/api/NAME.json` was posted
- **seconds**: of one run in ComfyUI {newer}, beside whatever else the machine did; {run}
- **with stand-ins** (¹): the published files' names, forms and layers, but {blocks} blocks of 256 numbers,
  UMT5 narrow up to its last block (that of `original_files` with it), MMAudio's VAE and BigVGAN narrow, and
  all weights drawn by chance; {width} x {height} pixels, {seconds} s, {steps} steps
"""


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    given = arguments()
    names = sorted(given.names or NAMES, key=lambda name: (name in LAST, name))
    hosts = [host_at(next(place for place in places() if (place / "comfyui_version.py").is_file()))]
    hosts += [host_at(given.older.expanduser())] if given.older else []
    for i, host in enumerate(hosts):
        out = given.out / version(host)
        with start(host, out / "host", given.out / "stand_ins", names) as server:
            if i == 0 and "browser" not in given.skip:
                run_browser(server, names, out, given.quick)
            if i == 0 and given.pictures:
                draw_nodes(server, out / "nodes")
            if "api" not in given.skip:
                run_api(server, names, out, given.quick)
    if {"browser", "api"} - set(given.skip):
        PAGE.write_text(table(given.out, [version(host) for host in hosts], given.quick), "utf8")
    if given.pictures:
        draw_thumbnails(given.out / version(hosts[0]))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--older", type=Path, help="the folder of an older ComfyUI")
    parser.add_argument("--quick", action="store_true", help="sample and train a few steps")
    parser.add_argument("--pictures", action="store_true", help="write the pictures of the pack too")
    parser.add_argument("--skip", nargs="+", default=[], choices=["browser", "api"])
    given = parser.parse_args()
    if unknown := set(given.names) - set(NAMES):
        parser.error(f"there is no workflow {', '.join(sorted(unknown))}")
    given.out = given.out.resolve()
    return given


def version(host: Host) -> str:
    return ".".join(map(str, host.version))


def start(host: Host, base: Path, files: Path, names: list[str]) -> AbstractContextManager[Server]:
    """A server with what these workflows read: clips, a voice, a LoRA, stand-ins from the folder `files`."""
    if not ((clips := base / "input" / "unitalk_clips") / "clips.jsonl").exists():
        write_clips(clips, 2, 0)
    shutil.copy(clips / "00000" / "reference.wav", base / "input" / "voice.wav")
    if set(NEEDS_FILES) & set(names):
        stand_ins.lay_out(files, base / "models")
    if not (lora := base / "models" / "loras" / "my_character.safetensors").exists():
        lora.parent.mkdir(parents=True, exist_ok=True)
        ends = {"lora_up": torch.zeros(192, 2), "lora_down": torch.ones(2, 192)}
        parts = {
            LORA_LAYER.format(stream, end): one.clone()
            for stream in ("video", "audio")
            for end, one in ends.items()
        }
        save_tensors(lora, parts)
    return Server.start(host.python, host.path, ROOT, base, {})


def run_browser(server: Server, names: list[str], out: Path, quick: bool) -> None:
    """Drop each workflow and press Run; OUT/browser says what was seen, OUT/media/NAME is what was made."""
    forget(server)
    for folder in ("canvas", "browser", "media"):
        (out / folder).mkdir(exist_ok=True)
    for name in names:
        (out / "canvas" / f"{name}.json").write_text(json.dumps(shipped(name, quick)[0]), "utf8")
    files = [out / "canvas" / f"{name}.json" for name in names]
    drive("browser.mjs", server.url, out / "browser", *files, seconds=7200)
    for name in sorted(set(names) - set(NEEDS_FILES)):  # whose clips are noise
        if prompt := known(out / "browser" / f"{name}.json").get("id"):
            keep(server, server.wait_for(prompt), out / "media" / name)


def shipped(name: str, quick: bool) -> tuple[Graph, Graph]:
    """Both forms of a workflow, as they are run here."""
    return read(name, quick=quick or name in TRAININGS, small=name in NEEDS_FILES)


def keep(server: Server, history: dict[str, Any], media: Path) -> None:
    """Copy what the save nodes of a prompt wrote."""
    shutil.rmtree(media, ignore_errors=True)
    media.mkdir()
    for path in server.files(history):
        shutil.copy(path, media)


def run_api(server: Server, names: list[str], out: Path, quick: bool) -> None:
    """Post each workflow; OUT/api/NAME.json says how it ended."""
    (out / "api").mkdir(exist_ok=True)
    for name in names:
        forget(server)
        said = post(server, shipped(name, quick)[1])
        (out / "api" / f"{name}.json").write_text(json.dumps(said, indent=1), "utf8")
        logging.info("%s %s: %s", out.name, name, said)


def forget(server: Server) -> None:
    """Let the host run everything anew, trainings included."""
    server.post("/free", {"unload_models": True, "free_memory": True})
    shutil.rmtree(server.base / "output" / "unitalk", ignore_errors=True)
    time.sleep(2)


def post(server: Server, api: dict[str, Any]) -> dict[str, Any]:
    try:
        history = server.wait_for(server.queue(api))
    except ValueError as error:
        return {"ended": "refused", "why": str(error)[:5000]}
    when = {kind: one["timestamp"] / 1000 for kind, one in history["status"]["messages"]}
    if "execution_success" not in when:
        kind, one = history["status"]["messages"][-1]
        return {"ended": kind, "why": one.get("exception_message", "")[:500]}
    return {"ended": "success", "seconds": round(when["execution_success"] - when["execution_start"], 1)}


def table(out: Path, versions: list[str], quick: bool) -> str:
    """The page, from all that OUT holds."""
    newer = versions[0]
    columns = ["workflow", f"browser {newer}", *(f"API {one}" for one in versions), "seconds"]
    rows = [columns, ["---"] * len(columns)]
    for name in NAMES:
        seen = known(out / newer / "browser" / f"{name}.json")
        runs = [known(out / one / "api" / f"{name}.json") for one in versions]
        seconds = runs[0].get("seconds") or seen.get("seconds")
        shown = by_browser(seen, *shipped(name, quick))
        marked = name + " ¹" * (name in NEEDS_FILES)
        rows.append([marked, shown, *map(by_api, runs), f"{seconds:.0f}" if seconds else ""])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    small = {name: value for changed in SMALL.values() for name, value in changed.items()}
    head = HEAD.format(newer=newer, run=STEPS[quick], blocks=stand_ins.BLOCKS, **small)
    return head + "\n" + "\n".join(lines) + "\n"


STEPS = {
    True: "it sampled 4 steps and trained 2 to 4",
    False: "with the steps that each workflow has, but 2 to 4 of a training",
}


def known(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf8")) if path.is_file() else {}


def by_browser(seen: dict[str, Any], canvas: dict[str, Any], api: dict[str, Any]) -> str:
    if not seen:
        return "not run"
    return "; ".join(problems(canvas, api, seen)) or "yes"


def by_api(said: dict[str, Any]) -> str:
    if said.get("ended") == "success":
        return "yes"
    return f"{said['ended']}: {said['why']}" if said else "not run"


if __name__ == "__main__":
    main()
