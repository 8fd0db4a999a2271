"""Say what a file is: weights, a clip, sound or a picture.

python -m unitalk_core info FILE
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..weights.identity import Identity

WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".json")
SHOWN = 2000  # characters of one metadata entry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="weights (.safetensors, .pth …), or any media file")


def run(args: argparse.Namespace) -> int:
    path = Path(args.file)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    facts = about_weights(path) if path.suffix.lower() in WEIGHTS else about_media(path)
    for name, value in ({"file": f"{path} ({path.stat().st_size:,} bytes)"} | facts).items():
        print(f"{name + ':':<12} {value}")
    return 0


def about_weights(path: Path) -> dict[str, Any]:
    """What a weights file holds, whether it is whole, what it needs, whether it fits, and its metadata."""
    from ..latent_file import MARK
    from ..weights.files import read_metadata
    from ..weights.identity import identify
    from ..weights.loading import describe

    known, metadata = describe(path), read_metadata(path)
    holds = ["latent of a clip"] if MARK in metadata else known["holds"]
    facts = {
        "kind": ", ".join(holds) or "unknown: no weights that this project uses",
        "tensors": known["tensors"],
        "parameters": f"{known['parameters']:,}",
        "precision": ", ".join(f"{name} x {count}" for name, count in precisions(path).most_common()),
    }
    for one in [] if MARK in metadata or "LoRA" in holds else identify(path):
        facts |= about_part(one, one.kind.name if len(holds) > 1 else "")
        if one.kind.part == "model" and one.fault is None:
            facts["sampling"] = about_sampling(path, one.loaded_bytes)
    return facts | {name: shortened(value) for name, value in metadata.items()}


def about_part(one: Identity, name: str) -> dict[str, str]:
    """What one part of a file is good for. name: before each line, where there are several."""
    facts = {
        "makes": one.about,
        "whole": one.fault or "yes, it loads strictly",
        "needs": one.needs,
        "memory": fit(one.loaded_bytes),
    }
    return {f"{name} {key}".strip(): text for key, text in facts.items() if text}


def about_sampling(path: Path, loaded: int) -> str:
    """What a step of the longest clip takes beside the weights, as counted on the meta device."""
    import torch

    from ..footprint import step_bytes
    from ..weights.loading import load_model

    config = load_model(path, device="meta")[1]
    form, side = config.format, 64 if config.markup == "phonemes" else 704
    shape = config.streams.map(lambda _, size: size, form.latent_shape(form.max_frames, side, side))
    step = step_bytes(config, shape, torch.bfloat16, kept=shape.video is not None)
    clip = f"{float(form.max_frames / form.fps):.2f} s at {side} x {side}"
    return f"{step / 1e9:.2f} GB more for {clip} in bf16; together {rooms_for(loaded + step)}"


def fit(size: int) -> str:
    """Whether so many bytes fit beside what runs now."""
    return f"{size / 1e9:.2f} GB once loaded; {rooms_for(size)}"


def rooms_for(size: int) -> str:
    """Where so many bytes fit beside what runs now, in memory and on the device."""
    import psutil
    import torch

    rooms = {"memory": psutil.virtual_memory().available}
    if torch.cuda.is_available():
        rooms[torch.cuda.get_device_name()] = torch.cuda.mem_get_info()[0]
    return ", ".join(
        f"{'fits' if size < free else 'does not fit'} into the {free / 1e9:.1f} GB free in {name}"
        for name, free in rooms.items()
    )


def precisions(path: Path) -> Counter[str]:
    """How many tensors there are of each type."""
    from ..weights.files import DTYPE_NAMES, open_weights

    return Counter(DTYPE_NAMES.get(one.dtype, str(one.dtype)) for one in open_weights(path).entries.values())


def shortened(value: str) -> str:
    """Metadata on one line, JSON without its spaces, a text in JSON as itself."""
    try:
        held = json.loads(value)
        value = held if isinstance(held, str) else json.dumps(held, separators=(",", ":"), ensure_ascii=False)
    except json.JSONDecodeError:
        value = " ".join(value.split())
    return value if len(value) <= SHOWN else f"{value[:SHOWN]}… ({len(value)} characters)"


def about_media(path: Path) -> dict[str, Any]:
    """Streams, length and metadata of a clip, a sound or a picture."""
    import av

    try:
        with av.open(str(path)) as file:
            facts: dict[str, Any] = {"kind": file.format.long_name}
            if file.duration:
                facts["length"] = f"{file.duration / av.time_base:.3f} s"
            for stream in file.streams:
                facts |= about_stream(stream)
            return facts | {name: shortened(value) for name, value in file.metadata.items()}
    except av.FFmpegError as error:
        raise ValueError(f"{path} is neither weights nor media that can be read: {error}") from error


def about_stream(stream: Any) -> dict[str, str]:
    length = f", {float(stream.duration * stream.time_base):.3f} s" if stream.duration else ""
    if stream.type == "video":
        codec = stream.codec_context
        rate = f", {float(stream.average_rate):g} fps" if stream.average_rate else ""
        return {"picture": f"{codec.name} {codec.pix_fmt}, {codec.width} x {codec.height}{rate}{length}"}
    if stream.type == "audio":
        channels = f"{stream.channels} channel" + "s" * (stream.channels > 1)
        return {"sound": f"{stream.codec_context.name}, {stream.rate} Hz, {channels}{length}"}
    return {stream.type: getattr(stream.codec_context, "name", "present")}
