"""Nodes that train: the core in a child process, followed on the node, with results for stock sockets."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.nn.functional import interpolate

from ..unitalk_core.media import read_image, read_video
from ..unitalk_core.training.following import Look, Order, look, train
from ..unitalk_core.training.metrics import read_metrics
from ..unitalk_core.training.result import LORA, MODEL, MODEL_FILE
from ..unitalk_core.weights.files import read_tensors
from ..unitalk_core.weights.loading import load_embedded
from ..unitalk_core.weights.lora import difference
from . import codecs, host
from .host import io
from .loading import base_path, embedded_patcher, file_patcher, load_miniature

PACKAGES = ("accelerate", "matplotlib", "pydantic", "yaml")
PIP_NAMES = {"yaml": "pyyaml"}
NAME = re.compile(r"[\w][\w .()+-]*")
FRAMES, WIDTH = 4, 768  # frames of a sample that are shown, and how wide they are together, in pixels

PARTS = {
    "face and voice": None,
    "voice": ["audio.self", "audio.cross", "audio.ffn", "audio.reference"],
    "face": ["video.self", "video.cross", "video.ffn"],
}  # None: the preset's
DATA = {
    "default": "",
    "tooltip": "From UniTalk Prepare Dataset; for the miniature also a folder of clips.",
}
RUN = {
    "tooltip": "The run's folder, output/unitalk/<name>. The same name and settings go on where it stopped.",
}
SEED = {
    "default": 0,
    "min": 0,
    "max": 0x7FFFFFFFFFFFFFFF,
    "control_after_generate": False,
    "tooltip": "Chance. Another seed is another run and needs another name.",
}
SETTINGS = {
    "default": "",
    "multiline": True,
    "advanced": True,
    "tooltip": "Any other key of the configuration, one a line, such as loss.mouth=2; it has the last word.",
}


class UniTalkTrainLoRA(io.ComfyNode):
    """A face and a voice in a small file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkTrainLoRA",
            display_name="UniTalk Train LoRA",
            search_aliases=["train character", "fine-tune voice"],
            category="UniTalk/training",
            description="Train a LoRA of a face and a voice, in a process of its own that can be resumed.",
            is_output_node=True,
            inputs=[
                io.String.Input("data", **DATA),
                io.Combo.Input(
                    "model",
                    options=["tiny", *host.files("model")],
                    default="tiny",
                    tooltip="The base: tiny is the miniature, else a file in models/diffusion_models.",
                ),
                io.Combo.Input(
                    "preset",
                    options=["tiny-lora", "character-lora"],
                    default="tiny-lora",
                    tooltip="What the clips are used for: tiny-lora for the miniature, else character-lora.",
                ),
                io.String.Input("name", default="my_character", **RUN),
                io.Int.Input(
                    "steps", default=400, min=2, max=1000000, tooltip="How long: 400 for the miniature."
                ),
                io.Float.Input(
                    "learning_rate",
                    default=1e-3,
                    min=1e-8,
                    max=1.0,
                    step=1e-5,
                    round=1e-8,
                    tooltip="1e-3 for the miniature, about 1e-4 for full models.",
                ),
                io.Int.Input("rank", default=16, min=1, max=1024, tooltip="Size of the LoRA; 8 to 64."),
                io.Float.Input(
                    "alpha",
                    default=16.0,
                    min=0.01,
                    max=1024.0,
                    step=0.01,
                    tooltip="Strength that is trained in: alpha / rank. As large as rank is 1.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "learn",
                    options=["face and voice", "voice", "face"],
                    default="face and voice",
                    tooltip="Which stream gets the LoRA; the other stays exactly as it is.",
                ),
                io.Int.Input("batch", default=4, min=1, max=4096, tooltip="Clips of one step."),
                io.Int.Input("seed", **SEED),
                io.String.Input("settings", **SETTINGS),
            ],
            outputs=[
                io.LoraModel.Output("lora", display_name="lora", tooltip="For SaveLoRA and LoraModelLoader."),
                io.LossMap.Output("loss", display_name="loss", tooltip="For LossGraphNode."),
                io.Image.Output("curves", display_name="curves", tooltip="Losses by stream and by noise."),
                io.Video.Output("sample", display_name="sample", tooltip="The last clip made along the way."),
            ],
        )

    @classmethod
    def execute(  # noqa: PLR0913, PLR0917  (the inputs of the node, by name)
        cls,
        data: str,
        model: str,
        preset: str,
        name: str,
        steps: int,
        learning_rate: float,
        rank: int,
        alpha: float,
        learn: str,
        batch: int,
        seed: int,
        settings: str,
    ) -> io.NodeOutput:
        values = {
            "model": base_path(model),
            "steps": steps,
            "optimizer.learning_rate": learning_rate,
            "lora.rank": rank,
            "lora.alpha": alpha,
            "lora.targets": PARTS[learn],
            "batch": batch,
            "seed": seed,
        }
        out = train_in_child(preset, data, name, changes_of(values, settings))
        return io.NodeOutput(read_tensors(out / LORA), *seen_of(out))


class UniTalkTrainFull(io.ComfyNode):
    """A model of one's own."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkTrainFull",
            display_name="UniTalk Train Full",
            search_aliases=["fine-tune", "full training"],
            category="UniTalk/training",
            description="Train a model itself, or whole parts of it, in a process that can be resumed.",
            is_output_node=True,
            inputs=[
                io.String.Input("data", **DATA),
                io.Combo.Input(
                    "model",
                    options=["tiny", *host.files("model")],
                    default="tiny",
                    tooltip="Where it starts: tiny is the miniature, else a file in models/diffusion_models.",
                ),
                io.Combo.Input(
                    "preset",
                    options=["tiny-stage1", "tiny-stage2", "wan-stage1", "wan-stage2"],
                    default="tiny-stage2",
                    tooltip="stage1 teaches the sound stream alone, stage2 both together; wan is full size.",
                ),
                io.String.Input("name", default="my_model", **RUN),
                io.Int.Input("steps", default=0, min=0, max=10000000, tooltip="How long; 0 = the preset's."),
                io.Float.Input(
                    "learning_rate",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=1e-6,
                    round=1e-9,
                    tooltip="0 = the preset's.",
                ),
                io.String.Input(
                    "parts",
                    default="",
                    tooltip="What is trained, such as audio.*, video.cross; empty = the preset's.",
                ),
                io.Int.Input("batch", default=0, min=0, max=4096, tooltip="Clips a step; 0 = the preset's."),
                io.Int.Input("seed", **SEED),
                io.String.Input("settings", **SETTINGS),
            ],
            outputs=[
                io.Model.Output("model", display_name="model", tooltip="The trained model, for any sampler."),
                io.Clip.Output("clip", display_name="clip", tooltip="Of a miniature, as trained."),
                io.LossMap.Output("loss", display_name="loss", tooltip="For LossGraphNode."),
                io.Image.Output("curves", display_name="curves", tooltip="Losses by stream and by noise."),
                io.Video.Output("sample", display_name="sample", tooltip="The last clip made along the way."),
                io.String.Output("path", display_name="path", tooltip="Where the trained model lies."),
                io.LoraModel.Output(
                    "lora", display_name="lora", tooltip="What a miniature learned, as a LoRA on its base."
                ),
            ],
        )

    @classmethod
    def execute(  # noqa: PLR0913, PLR0917  (the inputs of the node, by name)
        cls,
        data: str,
        model: str,
        preset: str,
        name: str,
        steps: int,
        learning_rate: float,
        parts: str,
        batch: int,
        seed: int,
        settings: str,
    ) -> io.NodeOutput:
        values = {
            "model": base_path(model),
            "steps": steps,
            "optimizer.learning_rate": learning_rate,
            "train": [part.strip() for part in parts.split(",") if part.strip()],
            "batch": batch,
        }
        chosen = {key: value or None for key, value in values.items()} | {"seed": seed}
        out = train_in_child(preset, data, name, changes_of(chosen, settings))
        model, clip, path = trained_model(out)
        return io.NodeOutput(model, clip, *seen_of(out), str(path), learned(path))


# --- what is asked for -----------------------------------------------------------------------------------


def changes_of(values: dict[str, Any], settings: str) -> tuple[str, ...]:
    """`key=value` of the widgets, then the lines of `settings`; None leaves the preset's."""
    lines = [line.strip() for line in settings.splitlines()]
    own = [f"{key}={json.dumps(value)}" for key, value in values.items() if value is not None]
    return (*own, *(line for line in lines if line and not line.startswith("#")))


def run_folder(name: str) -> Path:
    """ValueError for a name that is no plain folder name."""
    if not NAME.fullmatch(name.strip()):
        raise ValueError(f"a run's name is letters, digits, spaces, _ and -, got {name!r}; give another")
    return host.output_folder() / "unitalk" / name.strip()


def check_packages(packages: Sequence[str] = PACKAGES) -> None:
    """ImportError with the line that installs what is missing into the host's Python."""
    missing = [PIP_NAMES.get(name, name) for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        python = f'"{sys.executable}"' + (" -s" if sys.flags.no_user_site else "")
        names = " ".join(missing)
        raise ImportError(f"training needs {names}; install with: {python} -m pip install {names}")


# --- the run ---------------------------------------------------------------------------------------------


def train_in_child(preset: str, data: str, name: str, changes: tuple[str, ...]) -> Path:
    """The folder of the run, once it is done. The device is freed before a process is started."""
    check_packages()
    order = Order(
        preset=preset,
        data=host.input_path(data),
        out=run_folder(name),
        changes=changes,
        env=host.child_environment(),
    )
    train(order, host.make_room, Watch(), insists)
    return order.out


def insists() -> bool:
    """Asked while a stopped run still writes its checkpoint."""
    host.say("stopping: the checkpoint is written; stop again to end without it")
    return host.interrupted()


class Watch:
    """Shows how a run stands on its node: bar, one line, and its newest pictures when there are new ones."""

    def __init__(self) -> None:
        self.report, self.line, self.stamps = host.progress(1), "", ()

    def __call__(self, now: Look) -> None:
        if self.line != (line := in_words(now)):
            host.say(line)
            self.line = line
        step = 0 if now.record is None else now.record.step
        self.report(step, 1 if now.state is None else now.state.of, self.picture(now))

    def picture(self, now: Look) -> Image.Image | None:
        """None if there is no other one than the last time."""
        stamps = tuple(one.stat().st_mtime_ns for one in (now.sample, now.curves) if one is not None)
        if stamps == self.stamps:
            return None
        self.stamps = stamps
        return drawn(now)


def in_words(now: Look) -> str:
    """Where it is, and the losses of the last step."""
    if now.state is None or now.state.state == "preparing" or now.record is None:
        return "preparing"
    one, done = now.record, now.state.state == "done"
    losses = ", ".join(f"{name} {value:.3f}" for name, value in one.losses.items())
    return f"step {one.step} of {one.of}, {'done' if done else f'{duration(one.eta)} left'}\nloss: {losses}"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def drawn(now: Look) -> Image.Image:
    """Frames of the newest clip above the curves."""
    parts = []
    if now.sample is not None:
        frames = read_video(now.sample, change=small).frames
        picks = torch.linspace(0, len(frames) - 1, FRAMES).round().long()
        parts.append(Image.fromarray(torch.cat(list(frames[picks]), dim=1).mul(255).byte().numpy()))
    if now.curves is not None:
        curves = Image.open(now.curves).convert("RGB")
        parts.append(curves.resize((WIDTH, round(curves.height * WIDTH / curves.width))))
    whole = Image.new("RGB", (WIDTH, sum(one.height for one in parts)))
    top = 0
    for one in parts:
        whole.paste(one, (0, top))
        top += one.height
    return whole


def small(frame: torch.Tensor) -> torch.Tensor:
    """(h, w, 3) -> (rows, WIDTH / FRAMES, 3)"""
    rows = round(frame.shape[0] * WIDTH / FRAMES / frame.shape[1])
    shrunk = interpolate(frame.movedim(-1, 0)[None], size=(rows, WIDTH // FRAMES), mode="area")
    return shrunk[0].movedim(0, -1)


# --- what it leaves --------------------------------------------------------------------------------------


def seen_of(out: Path) -> tuple[Any, Any, Any]:
    """(LOSS_MAP, IMAGE of the curves, VIDEO of the newest sample)"""
    now = look(out)
    loss = {"loss": [record.loss for record in read_metrics(out)]}
    curves = host.nothing() if now.curves is None else read_image(now.curves)[None]
    return loss, curves, host.nothing() if now.sample is None else host.video_file(now.sample)


def trained_model(out: Path) -> tuple[Any, Any, Path]:
    """(MODEL, CLIP, where it lies); a model file has no text encoder of its own."""
    if (out / MODEL).is_dir():
        parts = load_embedded(out / MODEL)
        clip = codecs.text_clip(parts.text_encoder, parts.config.markup)
        return embedded_patcher(parts, out / MODEL), clip, out / MODEL
    return file_patcher((out / MODEL_FILE,)), host.nothing(), out / MODEL_FILE


def learned(path: Path) -> Any:
    """LORA_MODEL of what a miniature's network learned; nothing for a model file, where it is too large."""
    if not path.is_dir():
        return host.nothing()
    return difference(load_embedded(path).model, load_miniature().model)
