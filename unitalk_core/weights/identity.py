"""What a file of weights is, whether it is whole, what it needs beside it, and how much memory it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..config import ModelConfig
from .files import Entry, open_weights
from .keymaps import Kind, recognise
from .loading import load_audio_vae, load_model, load_text_encoder, load_video_vae, load_vocoder
from .quantised import FLOAT8, QUANT_MARKS

LOADERS: dict[str, Callable[[str | Path], Any]] = {
    "model": partial(load_model, device="meta"),
    "video vae": partial(load_video_vae, device="meta"),
    "audio vae": partial(load_audio_vae, device="meta"),
    "vocoder": partial(load_vocoder, device="meta"),
    "text encoder": partial(load_text_encoder, device="meta"),
}
SOUND = {20: "MMAudio's VAE of 16 kHz with BigVGAN", 40: "MMAudio's VAE of 44.1 kHz with BigVGAN v2"}


@dataclass(frozen=True)
class Identity:
    """One part of a file. fault: why it would not load; None if it would."""

    kind: Kind
    fault: str | None
    about: str
    needs: str
    loaded_bytes: int


def identify(path: str | Path) -> list[Identity]:
    """Every part that a file holds, by its names, shapes and types alone; empty for a foreign file."""
    entries = open_weights(path).entries
    return [identity(path, found.kind, found.take(entries)) for found in recognise(entries)]


def identity(path: str | Path, kind: Kind, entries: dict[str, Entry]) -> Identity:
    fault, about, needs = None, "", ""
    try:
        loaded = LOADERS[kind.part](path)
    except ValueError as error:
        fault = str(error)
    else:
        about = in_words(loaded[1]) if kind.part == "model" else ""
        needs = needed(kind, loaded, entries)
    return Identity(kind, fault, about, needs, loaded_bytes(kind, entries))


def needed(kind: Kind, loaded: Any, entries: dict[str, Entry]) -> str:
    """What makes clips together with it."""
    if kind.part == "model":
        return ", ".join(beside(loaded[1]))
    if kind.part == "text encoder" and "spiece_model" not in entries:
        return "its tokenizer: the folder google/umt5-xxl beside it"
    return {"audio vae": "a vocoder of its rate, or Griffin-Lim", "vocoder": "the audio VAE of its rate"}.get(
        kind.part, ""
    )


def beside(config: ModelConfig) -> list[str]:
    """The other files that a model needs."""
    if config.markup == "phonemes":
        return ["the files of the miniature beside it"]
    picture = [] if config.streams.video is None else ["the Wan2.2 video VAE"]
    sound = [] if config.streams.audio is None else [SOUND[config.format.audio_channels]]
    return ["UMT5-XXL", *picture, *sound]


def loaded_bytes(kind: Kind, entries: dict[str, Entry]) -> int:
    """As the loaders hold it: fp8 becomes float16, our int8 and the audio parts float32."""
    weights = [one for name, one in entries.items() if name.rpartition(".")[2] not in QUANT_MARKS]
    return sum(one.bytes // one.dtype.itemsize * width(kind, one.dtype) for one in weights)


def width(kind: Kind, dtype: torch.dtype) -> int:
    """Bytes of one number."""
    if dtype == torch.int8 or (kind.part in ("audio vae", "vocoder") and dtype.is_floating_point):
        return 4
    return 2 if dtype in FLOAT8 else dtype.itemsize


def in_words(config: ModelConfig) -> str:
    """One line for an artist: streams, size, clock, prompts."""
    clip, first = config.format, config.streams.present()[0]
    names = {"picture": config.streams.video, "sound": config.streams.audio}
    streams = " and ".join(name for name, stream in names.items() if stream is not None)
    return (
        f"{streams}, {config.coupling} coupling, {first.depth} blocks of {first.width}; "
        f"{float(clip.fps):g} fps, {clip.sample_rate} Hz, up to {float(clip.max_frames / clip.fps):.2f} s; "
        f"prompts as {config.markup}"
    )
