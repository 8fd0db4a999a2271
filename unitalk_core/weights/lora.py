"""Low-rank additions to linear layers: trained beside frozen weights, stored under the host's names.

A layer y = W x gets y += alpha / rank * up(down(x)); `down` is drawn, `up` starts at zero (Hu and others,
arXiv 2106.09685). Both are children of the layer, so `JointDiT` and its own names stay as they are.
File: `diffusion_model.<layer>.lora_down.weight`, `.lora_up.weight`, `.alpha`, and for what was trained whole
`diffusion_model.<name>.diff` (`.diff_b` for a bias): ComfyUI's own spelling.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .files import read_tensors
from .quantised import FLOAT8

PREFIX = "diffusion_model."
DOWN, UP, ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"
WHOLE, WHOLE_BIAS = ".diff", ".diff_b"
PARTS = ("picture", "sound", "picture_to_sound", "sound_to_picture", "reference")


def part_of(weight: str) -> str:
    """Which of `PARTS` a weight of a `JointDiT` belongs to, by its name.

    picture_to_sound and sound_to_picture are the layers with which a stream reads the other (Ovi's fusion);
    a joint attention has none of its own: what a stream shows to the other is what it shows to itself.
    """
    picture = weight.startswith("video_model.")
    if "_ref." in weight or ".reference_embedding." in weight:
        return "reference"
    if "_fusion." in weight:
        return "sound_to_picture" if picture else "picture_to_sound"
    return "picture" if picture else "sound"


def read_strengths(text: str) -> dict[str, float]:
    """`0.8`, `sound:0` or `0.8,sound:0,reference:1` -> the strength of each of `PARTS`; "" is 1 for all.

    ValueError for another part, or for what is no number.
    """
    overall, named = 1.0, {}
    for one in filter(None, text.split(",")):
        part, _, value = one.rpartition(":")
        if not math.isfinite(number := float(value)):
            raise ValueError(f"the strength of a LoRA must be a number, got {number:g}")
        if part and part not in PARTS:
            raise ValueError(f"a LoRA has no part {part}; its parts are {', '.join(PARTS)}")
        overall, named = (overall, named | {part: number}) if part else (number, named)
    return {part: named.get(part, overall) for part in PARTS}


def add_lora(model: nn.Module, layers: Iterable[str], rank: int, alpha: float, seed: int) -> None:
    """Give each named `nn.Linear` a float32 LoRA, from `seed` alone. The output does not change yet."""
    generator = torch.Generator("cpu").manual_seed(seed)
    for name in layers:
        layer = model.get_submodule(name)
        device = layer.weight.device
        layer.lora_down = nn.Linear(layer.in_features, rank, bias=False, device=device)
        layer.lora_up = nn.Linear(rank, layer.out_features, bias=False, device=device)
        layer.lora_scale = alpha / rank
        with torch.no_grad():
            drawn = torch.randn(rank, layer.in_features, generator=generator)
            layer.lora_down.weight.copy_(drawn / math.sqrt(layer.in_features))
            layer.lora_up.weight.zero_()
        layer.register_forward_hook(_add)


def _add(layer: nn.Linear, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    made = layer.lora_up(layer.lora_down(inputs[0].to(layer.lora_down.weight.dtype)))
    return output + (layer.lora_scale * made).to(output.dtype)


def is_lora(name: str) -> bool:
    return name.endswith((DOWN, UP))


def lora_file(
    trained: Mapping[str, Tensor], base: Mapping[str, Tensor], alpha: float | None
) -> dict[str, Tensor]:
    """What a LoRA file holds, from trained tensors by their names in the model.

    base: the values before, of those that were trained whole. alpha: of all LoRAs.
    """
    stored = {}
    for name, one in trained.items():
        value = one.detach().float().cpu()
        if is_lora(name):
            stored[PREFIX + name] = value
            stored[PREFIX + name.removesuffix(DOWN).removesuffix(UP) + ALPHA] = torch.tensor(float(alpha))
        else:
            stored[PREFIX + _whole(name)] = value - base[name].float().cpu()
    return stored


def difference(trained: nn.Module, base: nn.Module) -> dict[str, Tensor]:
    """A LoRA file of all that differs between two models of one kind: as large as what was trained."""
    before = base.state_dict()
    changed = {name: one for name, one in trained.state_dict().items() if not torch.equal(one, before[name])}
    return lora_file(changed, before, None)


def _whole(name: str) -> str:
    if name.endswith(".bias"):
        return name.removesuffix(".bias") + WHOLE_BIAS
    return name.removesuffix(".weight") + WHOLE


class Lora(NamedTuple):
    """A LoRA file, and how strongly each of `PARTS` is added."""

    tensors: Mapping[str, Tensor]
    strengths: Mapping[str, float]
    source: str | Path

    def changes(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, list[str]]:
        """The weights that change, each with the entries that change it.

        ValueError for a key that fits no weight of these names and shapes, or whose shape does not.
        """
        entries = [name for name in self.tensors if name.endswith((UP, WHOLE, WHOLE_BIAS))]
        targets = {name: _target(name, shapes) for name in entries}
        known = (DOWN, UP, ALPHA, WHOLE, WHOLE_BIAS)
        lost = [name for name in self.tensors if not name.startswith(PREFIX) or not name.endswith(known)]
        lost += [
            name
            for name, target in targets.items()
            if target is None or _shape(name, self.tensors) != tuple(shapes[target])
        ]
        if lost:
            raise ValueError(
                f"{self.source} does not fit this model: {len(lost)} of {len(self.tensors)} keys have no "
                f"place, such as {', '.join(sorted(lost)[:3])}"
            )
        found: dict[str, list[str]] = {}
        for name, target in targets.items():
            found.setdefault(target, []).append(name)
        return found

    def change(self, target: str, entry: str) -> Tensor:
        """What one entry adds to a weight, in float32."""
        return self.strengths[part_of(target)] * _change(entry, self.tensors)


@torch.no_grad()
def apply_lora(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    strength: float | Mapping[str, float],
    source: str | Path,
) -> None:
    """Add a LoRA file to the weights of `model` (a `JointDiT`) for good. strength: of all, or of each part.

    ValueError, before anything is changed, for a key that fits no weight or whose shape does not.
    """
    weights = dict(model.named_parameters())
    strengths = strength if isinstance(strength, Mapping) else dict.fromkeys(PARTS, strength)
    lora = Lora(tensors, strengths, source)
    shapes = {name: tuple(one.shape) for name, one in weights.items()}
    changes = lora.changes(shapes)
    if small := [name for name in changes if weights[name].dtype in FLOAT8]:
        raise ValueError(
            f"{source} changes {small[0]}, which is held in fp8; take bf16, or add it to a file of the model "
            "first (convert --lora)"
        )
    for target, entries in changes.items():
        for entry in entries:
            change = _change(entry, tensors).to(weights[target])
            weights[target].add_(change, alpha=strengths[part_of(target)])


def is_lora_file(names: Iterable[str]) -> bool:
    return any(name.endswith((UP, WHOLE, WHOLE_BIAS)) for name in names)


def read_lora(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a LoRA file; ValueError for a file that is none."""
    tensors = read_tensors(path)
    if not is_lora_file(tensors):
        raise ValueError(f"{path} is no LoRA of ours or ComfyUI's: it has no {UP[1:]} and no {WHOLE[1:]}")
    return tensors


def _change(name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """What one entry adds to its weight at strength 1."""
    if not name.endswith(UP):
        return tensors[name].float()
    layer = name.removesuffix(UP)
    down, alpha = tensors[layer + DOWN], tensors.get(layer + ALPHA)
    scale = 1.0 if alpha is None else float(alpha) / down.shape[0]
    return scale * tensors[name].float() @ down.float()


def _shape(name: str, tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Of what one entry adds."""
    if not name.endswith(UP):
        return tuple(tensors[name].shape)
    down = tensors.get(name.removesuffix(UP) + DOWN)
    if down is None or down.shape[0] != tensors[name].shape[1]:
        raise ValueError(f"{name} lacks a {DOWN[1:]} of the same rank beside it")
    return (tensors[name].shape[0], down.shape[1])


def _target(name: str, weights: Collection[str]) -> str | None:
    """The parameter that an entry changes."""
    for ending, replaced in ((UP, (".weight",)), (WHOLE_BIAS, (".bias",)), (WHOLE, (".weight", ""))):
        if name.endswith(ending):
            stem = name.removeprefix(PREFIX).removesuffix(ending)
            return next((stem + one for one in replaced if stem + one in weights), None)
    return None
