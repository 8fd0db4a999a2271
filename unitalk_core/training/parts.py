"""The parts of a joint model that can be trained apart, and which parameters belong to each.

A part is `stream.group`, such as `audio.self`; the miniature's text encoder is a part of its own. Patterns
name several: `audio.*`, `*.ffn`, `*`. Every parameter belongs to exactly one part.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn

STREAMS = {"video_model": "video", "audio_model": "audio"}
TEXT_ENCODER = "text_encoder"
GROUPS = {
    "input": r"patch_embedding\.",
    "time": r"time_(embedding|projection)\.",
    "text": r"text_embedding\.",
    "reference": r"reference_embedding\.|blocks\.\d+\.cross_attn\.(k|v|norm_k)_ref\.",
    "fusion": r"blocks\.\d+\.cross_attn\.\w+_fusion\.",
    "self": r"blocks\.\d+\.self_attn\.",
    "cross": r"blocks\.\d+\.(cross_attn|norm3)\.",
    "ffn": r"blocks\.\d+\.ffn\.",
    "modulation": r"blocks\.\d+\.modulation$",
    "head": r"head\.",
}  # group -> names in a stream; the first that fits counts


def part_of(name: str) -> str:
    """The part of a parameter of `JointDiT` or of `Trainee` ("model.…", "text_encoder.…")."""
    if name.startswith(f"{TEXT_ENCODER}."):
        return TEXT_ENCODER
    stream, _, rest = name.removeprefix("model.").partition(".")
    group = next((group for group, names in GROUPS.items() if re.match(names, rest)), None)
    if stream not in STREAMS or group is None:
        raise ValueError(f"{name} is no parameter of a joint model")
    return f"{STREAMS[stream]}.{group}"


def parts_of(names: Iterable[str]) -> list[str]:
    """The parts that these parameters make up, in their order."""
    return list(dict.fromkeys(part_of(name) for name in names))


def chosen(names: Sequence[str], patterns: Sequence[str], key: str) -> list[str]:
    """The names whose part fits one of `patterns`; ValueError for a pattern that fits nothing.

    key: where the patterns stand in the configuration, for the error.
    """
    parts = parts_of(names)
    for pattern in patterns:
        if not any(fnmatchcase(part, pattern) for part in parts):
            raise ValueError(f"{key} names {pattern}, which this model lacks; it has {', '.join(parts)}")
    return [name for name in names if any(fnmatchcase(part_of(name), pattern) for pattern in patterns)]


def linear_layers(model: nn.Module, patterns: Sequence[str], key: str) -> list[str]:
    """Paths of the linear layers in these parts; ValueError for a pattern without one."""
    layers = [name for name, one in model.named_modules() if isinstance(one, nn.Linear)]
    weights = [f"{name}.weight" for name in layers if not name.endswith(("lora_down", "lora_up"))]
    return [name.removesuffix(".weight") for name in chosen(weights, patterns, key)]
