"""Nodes between a folder of clips and training: is it fit, and its latents. A child process does the work."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from pathlib import Path
from typing import Any

from ..unitalk_core.child import Child
from ..unitalk_core.cli.check import lines, summary
from ..unitalk_core.data.checks import Finding
from ..unitalk_core.data.clips import read_rows
from . import host
from .host import io
from .loading import base_path

DONE = re.compile(r"(\d+)/(\d+) \[")  # of a progress bar in the child's log
NONE = "none"

FOLDER = {
    "default": "",
    "tooltip": "A folder with name.mp4 and name.txt, or with one .jsonl; in ComfyUI's input or anywhere.",
}
SIDE = {
    "default": 0,
    "min": 0,
    "max": 4096,
    "step": 32,
    "tooltip": "Pixels that are trained on; 0 is what the model is made for, 64 for tiny, else 704.",
    "advanced": True,
}


class UniTalkCheckDataset(io.ComfyNode):
    """Every clip, and why it can be used or cannot."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkCheckDataset",
            display_name="UniTalk Check Dataset",
            search_aliases=["verify clips", "dataset report"],
            category="UniTalk/training",
            description="Look through a folder of clips: which can be trained on, and why others cannot.",
            is_output_node=True,
            inputs=[
                io.String.Input("folder", **FOLDER),
                io.Combo.Input(
                    "model",
                    options=["tiny", "unitalk", "ovi-720", "ovi-960", *host.files("model")],
                    default="tiny",
                    tooltip="What shall be trained: the miniature, a kind of full model, or a model file.",
                ),
                io.Int.Input("width", **SIDE),
                io.Int.Input("height", **SIDE),
            ],
            outputs=[
                io.String.Output("folder", display_name="folder", tooltip="For UniTalk Prepare Dataset."),
                io.String.Output("report", display_name="report", tooltip="A line for each clip."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str | None = None, **_: Any) -> str:
        return state_of(folder)

    @classmethod
    def execute(cls, folder: str, model: str, width: int, height: int) -> io.NodeOutput:
        path = host.input_path(folder)
        report = check(path, [str(path), "--model", base_path(model), *size_of(width, height)])
        host.say(report.partition("\n")[0])
        return io.NodeOutput(str(path), report)


class UniTalkPrepareDataset(io.ComfyNode):
    """Clips as latents, made once."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkPrepareDataset",
            display_name="UniTalk Prepare Dataset",
            search_aliases=["cache latents", "encode dataset"],
            category="UniTalk/training",
            description="Encode a folder of clips once for training. What is encoded already is kept.",
            is_output_node=True,
            inputs=[
                io.String.Input("folder", **FOLDER),
                io.Combo.Input(
                    "model",
                    options=["tiny", "unitalk", "ovi-720", "ovi-960", *host.files("model")],
                    default="tiny",
                    tooltip="What shall be trained. tiny brings its encoders, others need the files below.",
                ),
                io.Int.Input("width", **SIDE),
                io.Int.Input("height", **SIDE),
                io.Combo.Input(
                    "video_vae",
                    options=["none", *host.files("vae")],
                    default="none",
                    tooltip="The Wan2.2 VAE in models/vae, for full models.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "audio_vae",
                    options=["none", *host.files("vae")],
                    default="none",
                    tooltip="MMAudio's audio VAE in models/vae, for full models.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "vocoder",
                    options=["none", *host.files("vae")],
                    default="none",
                    tooltip="BigVGAN in models/vae, only to listen to a clip; none is rougher.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "text_encoder",
                    options=["none", *host.files("text")],
                    default="none",
                    tooltip="umT5 in models/text_encoders, for full models.",
                    advanced=True,
                ),
                io.String.Input(
                    "show", default="", tooltip="The clip to give out as it is stored; empty = the first."
                ),
            ],
            outputs=[
                io.String.Output("data", display_name="data", tooltip="For the training nodes."),
                io.Video.Output("clip", display_name="clip", tooltip="What training sees and hears of it."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str | None = None, **_: Any) -> str:
        return state_of(folder)

    @classmethod
    def execute(  # noqa: PLR0913, PLR0917  (the inputs of the node, by name)
        cls,
        folder: str,
        model: str,
        width: int,
        height: int,
        video_vae: str,
        audio_vae: str,
        vocoder: str,
        text_encoder: str,
        show: str,
    ) -> io.NodeOutput:
        path = host.input_path(folder)
        vaes = {"--video-vae": video_vae, "--audio-vae": audio_vae, "--vocoder": vocoder}
        files = [part for option, name in vaes.items() for part in file_option(option, "vae", name)]
        files += file_option("--text-encoder", "text", text_encoder)
        what = [str(path), "--model", base_path(model), *size_of(width, height), *files]
        cache, clip = prepare(path, what, show.strip())
        return io.NodeOutput(str(cache), host.video_file(clip))


def state_of(folder: str | None) -> str:
    """Changes with any file of the folder, so that the host runs the node again."""
    path = None if folder is None else host.input_path(folder)
    if path is None or not path.is_dir():
        return ""
    files = sorted(one for one in path.rglob("*") if not one.relative_to(path).parts[0].startswith("."))
    told = [(str(one), one.stat().st_size, one.stat().st_mtime_ns) for one in files]
    return hashlib.sha256(repr(told).encode()).hexdigest()


def size_of(width: int, height: int) -> list[str]:
    """The option that names a size; none for the model's own."""
    if not width and not height:
        return []
    if not width or not height:
        raise ValueError(f"give width and height, or 0 for both; got {width} x {height}")
    return ["--size", f"{width}x{height}"]


def file_option(option: str, kind: str, name: str) -> list[str]:
    return [] if name == NONE else [option, str(host.path_of(kind, name))]


def check(folder: Path, what: list[str]) -> str:
    """The report on a folder; ValueError of one sentence if nothing of it can be used."""
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "report.json"
        run_core(["check", *what, "--out", str(out)])
        findings = [Finding(**one) for one in json.loads(out.read_text(encoding="utf-8"))["clips"]]
    refused = [one for one in findings if one.reasons]
    if len(refused) == len(findings):
        first = refused[0]
        raise ValueError(
            f"none of the {len(findings)} clips in {folder} can be used; {first.name}: {first.reasons[0]}"
        )
    return "\n".join([summary(str(folder), findings), *(line for one in findings for line in lines(one))])


def prepare(folder: Path, what: list[str], show: str) -> tuple[Path, Path]:
    """(the cache of this folder for this model, a video of one of its clips)"""
    rows = read_rows(folder)
    digest = hashlib.sha256(repr(what).encode()).hexdigest()[:8]
    cache = host.output_folder() / "unitalk_data" / f"{folder.name}-{digest}"
    clip = host.temporary_folder() / f"unitalk-{digest}.mp4"
    clip.parent.mkdir(parents=True, exist_ok=True)
    cache.parent.mkdir(parents=True, exist_ok=True)
    shown = ["--show", show or rows[0].name, "--clip", str(clip)]
    host.make_room()
    run_core(["prepare", *what, "--out", str(cache), *shown, "--device", host.device()])
    return cache, clip


def run_core(arguments: list[str]) -> None:
    """A command of the core in a child process, with its progress on the node. ValueError if it fails."""
    report = host.progress(1)
    with tempfile.TemporaryDirectory() as temporary:
        child = Child.start(arguments, Path(temporary) / "log.txt", host.child_environment())
        child.follow(lambda: report(*done_of(child.said())), host.interrupted)
        if child.code not in (0, 1):  # 1: done, and something is wrong with the clips
            raise ValueError(child.reason())


def done_of(log: str) -> tuple[int, int]:
    """(done, of) by the progress bar that the child has drawn last."""
    bars = DONE.findall(log)
    return (int(bars[-1][0]), int(bars[-1][1])) if bars else (0, 1)
