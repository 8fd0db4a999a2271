"""Configurations read off the names and shapes of a checkpoint that does not carry its own."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ..av import AV, ClipFormat
from ..config import OVI_720, OVI_AUDIO, OVI_FORMAT, WAN_FORMAT, ModelConfig, StreamConfig
from ..models.video_vae import WAN_VAE, VideoVAEConfig

HEAD_WIDTH = 128  # of every Wan and Ovi model; shapes do not tell it
TEXT_LEN = 512  # likewise
LONG_FRAMES = 241  # of Ovi's 10 s model
PUBLISHED_DEPTH = {3072: 30, 4096: 24}  # blocks by width: Wan2.2-TI2V-5B and Ovi, UMT5-XXL
Shapes = Mapping[str, tuple[int, ...]]


@contextmanager
def reading_sizes(source: str | Path) -> Iterator[None]:
    """Errors of looking for sizes, as a ValueError that says what tells them."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{source} lacks {error.args[0]}, from which its size is read") from error
    except (IndexError, ArithmeticError, TypeError) as error:
        raise ValueError(f"{source} has a layer of another shape than its kind ({error})") from error
    except ValueError as error:
        if "to unpack" not in str(error):
            raise
        raise ValueError(f"{source} has a layer of another shape than its kind ({error})") from error


def check_depth(source: str | Path, width: int, depth: int) -> None:
    """ValueError if whole blocks of a published model are missing, which no other shape would tell."""
    published = PUBLISHED_DEPTH.get(width, depth)
    if depth != published:
        raise ValueError(f"{source} holds {depth} of {published} blocks; fetch the whole file, or all shards")


def model_config(shapes: Shapes, source: str | Path) -> ModelConfig:
    """Of a transformer in our names. ValueError for sizes that are not Wan2.2-TI2V's, UniTalk's or Ovi's.

    Ovi's three checkpoints have equal shapes: what their file name says (960, 10s) decides markup and length.
    """
    clip = _clip_format(shapes, source)
    streams = AV(_stream(shapes, "video_model.", clip, source), _stream(shapes, "audio_model.", clip, source))
    fusion = any(".k_fusion." in name for name in shapes)
    if fusion and len(streams.present()) < 2:
        held = "video" if streams.audio is None else "audio"
        raise ValueError(f"{source} holds only the {held} stream of an Ovi model; name the other's file too")
    if not fusion:
        return ModelConfig(streams=streams, format=clip)
    stem = Path(source).stem
    long = clip.max_frames if "10s" not in stem else LONG_FRAMES
    markup = "ovi-960" if "960" in stem else "ovi-720"
    return replace(OVI_720, streams=streams, format=replace(clip, max_frames=long), markup=markup)


def video_vae_config(shapes: Shapes, source: str | Path) -> VideoVAEConfig:
    """Of a Wan2.2 VAE; its latent statistics are the published ones, so it must have 48 channels."""
    channels = shapes["conv2.weight"][0]
    if channels != WAN_VAE.latent_channels:
        raise ValueError(
            f"{source} is a VAE of {channels} latent channels without statistics; Wan2.2's has 48"
        )
    levels = 1 + _last(shapes, r"encoder\.downsamples\.(\d+)\.")
    first = "encoder.downsamples.{}.downsamples.0.residual.6.weight"
    width = shapes["encoder.conv1.weight"][0]
    return replace(
        WAN_VAE,
        encoder_width=width,
        decoder_width=shapes["decoder.head.0.gamma"][0],
        multipliers=tuple(shapes[first.format(i)][0] // width for i in range(levels)),
        blocks=_last(shapes, r"encoder\.downsamples\.0\.downsamples\.(\d+)\."),
        temporal_down=tuple(
            _has(shapes, rf"encoder\.downsamples\.{i}\..*time_conv") for i in range(levels - 1)
        ),
    )


def _clip_format(shapes: Shapes, source: str | Path) -> ClipFormat:
    rows = shapes.get("audio_model.head.head.bias")
    channels = rows[0] if rows else WAN_FORMAT.audio_channels
    for clip in (WAN_FORMAT, OVI_FORMAT):
        if clip.audio_channels == channels:
            return clip
    raise ValueError(f"{source} makes {channels} audio channels; UniTalk makes 40, Ovi 20")


def _stream(shapes: Shapes, prefix: str, clip: ClipFormat, source: str | Path) -> StreamConfig | None:
    own = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    if not own:
        return None
    width = own["head.modulation"][-1]
    if width % HEAD_WIDTH:
        raise ValueError(f"{source} has width {width} and no configuration; a full-size one is 128 a head")
    depth = 1 + _last(own, r"blocks\.(\d+)\.")
    check_depth(source, width, depth)
    kind, patch, channels = _input(own)
    outputs = own["head.head.weight"][0] // math.prod(patch)
    if kind == "patch" and outputs != clip.video_channels:
        raise ValueError(
            f"{source} makes {outputs} latent channels; Wan2.2-TI2V-5B makes {clip.video_channels}"
        )
    return StreamConfig(
        width=width,
        heads=width // HEAD_WIDTH,
        depth=depth,
        ffn_width=own["blocks.0.ffn.0.weight"][0],
        in_channels=channels,
        out_channels=outputs,
        text_dim=own["text_embedding.0.weight"][1],
        text_len=TEXT_LEN,
        freq_dim=own["time_embedding.0.weight"][1],
        patch=patch,
        input=kind,
        rope_scale=_rope_scale(kind, clip),
        **_reference(own),
    )


def _input(own: Shapes) -> tuple[str, tuple[int, int, int], int]:
    """How latents enter: (kind, patch, channels)."""
    if "patch_embedding.0.weight" in own:
        return "conv", (1, 1, 1), own["patch_embedding.0.weight"][1]
    _, channels, *patch = own["patch_embedding.weight"]
    return ("patch", tuple(patch), channels) if patch else ("linear", (1, 1, 1), channels)


def _rope_scale(kind: str, clip: ClipFormat) -> float:
    return {"patch": 1.0, "conv": OVI_AUDIO.rope_scale, "linear": clip.rope_scale}[kind]


def _reference(own: Shapes) -> dict[str, object]:
    if "reference_embedding.weight" in own:
        return {"reference": "linear", "reference_dim": own["reference_embedding.weight"][1]}
    if "reference_embedding.1.weight" in own:
        return {"reference": "mlp", "reference_dim": own["reference_embedding.1.weight"][1]}
    return {}


def _last(shapes: Shapes, pattern: str) -> int:
    """The highest number that `pattern` finds at the start of a name; -1 if it finds none."""
    return max((int(found[1]) for name in shapes if (found := re.match(pattern, name))), default=-1)


def _has(shapes: Shapes, pattern: str) -> bool:
    return any(re.match(pattern, name) for name in shapes)
