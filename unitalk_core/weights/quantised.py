"""Weights in a byte each: fp8 as ComfyUI and others store it, with or without scales, and our own int8.

They become floating point in `dequantise`, so everything above sees plain tensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
SCALED = "scaled_fp8"  # a tensor of this name says that the fp8 weights of a file have scales
QUANT_MARKS = (SCALED, "scale_input", "input_scale", "comfy_quant")  # last part of a name; no weights
MATRIX = re.compile(r"(^|\.)blocks?\.\d+\..*(?<!_bias)(?<!embedding)\.weight$")  # if it has two axes
INT8_MIN_SIZE = 1024  # elements; smaller tensors stay floating point


def dequantise(tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Floating point weights from quantised ones; every other tensor is passed on as it is.

    Scales: `<linear>.scale_weight` or `<name>_scale`, one number, or one per row of the first axis.
    dtype: of all floating point weights; by default float16 for fp8 (which it holds exactly) and float32 for
    int8, with the float16 that stands beside int8, and for the others what they have.
    """
    return dict(dequantised(tensors, tensors.__getitem__, dtype))


def dequantised(
    entries: Mapping[str, Any], read: Callable[[str], Tensor], dtype: torch.dtype | None = None
) -> Iterator[tuple[str, Tensor]]:
    """The same one by one. entries: anything with a dtype, by name; read: gives the tensor of a name."""
    check_scales(entries)
    int8 = any(one.dtype == torch.int8 for one in entries.values())
    for name, entry in entries.items():
        if name.rpartition(".")[2] in QUANT_MARKS or _scaled_by(name, entries):
            if name.endswith("comfy_quant"):
                _check_format(name, read(name))
            continue
        scale = scale_of(name, entries)
        if entry.dtype in FLOAT8 or scale is not None:
            usual = torch.float16 if entry.dtype in FLOAT8 else torch.float32
            yield name, _times(name, read(name), None if scale is None else read(scale)).to(dtype or usual)
        elif entry.dtype.is_floating_point:
            usual = torch.float32 if int8 and entry.dtype == torch.float16 else entry.dtype
            yield name, read(name).to(dtype or usual)
        else:
            yield name, read(name)


def in_fp8(tensors: Mapping[str, Tensor], every: bool = False, fast: bool | None = None) -> dict[str, Tensor]:
    """The matrices of the blocks in fp8, as ComfyUI's layers of mixed precision take them; the rest plain.

    `<layer>.weight` in fp8, `.weight_scale` one number in float32, `.comfy_quant` JSON in bytes.
    every: those that are not fp8 yet too. fast: products in fp8, on devices that can; None is as the file
    says, and not where it has no scales.
    """
    check_scales(tensors)
    kept: dict[str, Tensor] = {}
    rest = dict(tensors)
    for name in [one for one in tensors if _stays(one, tensors, every)]:
        layer, scale = name.removesuffix("weight"), scale_of(name, tensors)
        group = {one: rest.pop(one) for one in (name, scale) if one is not None}
        if group[name].dtype in FLOAT8:
            weight = group[name]
            factor = torch.ones(()) if scale is None else group[scale].float().reshape(())
        else:
            weight, factor = quantise_fp8(dequantise(group)[name])
        quick = _says_fast(layer, scale, tensors) if fast is None else fast
        kept[name], kept[f"{layer}weight_scale"] = weight, factor
        kept[f"{layer}comfy_quant"] = _quant_note(weight.dtype, quick)
    return dequantise(rest) | kept


def for_float8(tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The same as the layers of `models.float8` take them: a scale a row, no note. dtype: of all the rest."""
    held = in_fp8(tensors, every=True, fast=False)
    return {name: _for_layer(name, one, held, dtype) for name, one in held.items() if not _is_note(name)}


def _for_layer(name: str, one: Tensor, held: Mapping[str, Tensor], dtype: torch.dtype | None) -> Tensor:
    if _scaled_by(name, held):
        return one.expand(len(held[name.removesuffix("_scale")])).contiguous()
    return one if one.dtype in FLOAT8 or not one.is_floating_point() else one.to(dtype or one.dtype)


def _is_note(name: str) -> bool:
    return name.endswith("comfy_quant")


def _stays(name: str, tensors: Mapping[str, Tensor], every: bool) -> bool:
    one = tensors[name]
    if one.ndim != 2 or not MATRIX.search(name):
        return False
    scale = scale_of(name, tensors)
    return (one.dtype in FLOAT8 and (scale is None or tensors[scale].numel() == 1)) or (
        every and (one.is_floating_point() or scale is not None)
    )


def _says_fast(layer: str, scale: str | None, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a file wants a layer multiplied in fp8. Two numbers in the mark of scaled files say no."""
    if f"{layer}comfy_quant" in tensors:
        stated = json.loads(bytes(tensors[f"{layer}comfy_quant"].flatten().tolist()))
        return not stated.get("full_precision_matrix_mult", False)
    mark = next((one for name, one in tensors.items() if name.rpartition(".")[2] == SCALED), None)
    return scale is not None and mark is not None and mark.numel() != 2


def _quant_note(dtype: torch.dtype, fast: bool) -> Tensor:
    note: dict[str, Any] = {"format": str(dtype).removeprefix("torch.")}
    if not fast:
        note["full_precision_matrix_mult"] = True
    return torch.tensor(list(json.dumps(note).encode()), dtype=torch.uint8)


def scale_of(name: str, tensors: Mapping[str, Any]) -> str | None:
    """The name of the scale of a quantised tensor; None if it has none. tensors: anything with a dtype."""
    if tensors[name].dtype not in (*FLOAT8, torch.int8):
        return None
    return next((key for key in _scale_names(name) if key in tensors), None)


def check_scales(tensors: Mapping[str, Any]) -> None:
    """ValueError for a scale without its weight, and for fp8 without one where a file says it has them.

    tensors: anything with a dtype.
    """
    for name in (one for one in tensors if one.endswith("scale_weight")):
        owner = tensors.get(name.removesuffix("scale_weight") + "weight")
        if owner is None or owner.dtype not in (*FLOAT8, torch.int8):
            found = "missing" if owner is None else str(owner.dtype).removeprefix("torch.")
            raise ValueError(f"{name} is the scale of an fp8 weight, and that weight is {found}")
    marks = {name for name in tensors if name.rpartition(".")[2] == SCALED}
    for name in (one for one in tensors if marks and one not in marks):
        if tensors[name].dtype in FLOAT8 and scale_of(name, tensors) is None:
            raise ValueError(f"{name} is fp8 in a file with scales, and its own scale is missing")


def quantise_fp8(one: Tensor) -> tuple[Tensor, Tensor]:
    """(float8_e4m3fn, scale): the largest number of a weight becomes the largest of the format.

    `fp8 * scale` is within a sixteenth of each number, and of the smallest step near zero.
    """
    weight = one.float()
    scale = weight.abs().max() / torch.finfo(torch.float8_e4m3fn).max
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (weight / scale).to(torch.float8_e4m3fn), scale


def quantise_int8(tensors: Mapping[str, Tensor], keep: Sequence[str] = ()) -> dict[str, Tensor]:
    """Weights as int8 with a float32 scale per row of the first axis, `<name>_scale`; small ones in float16.

    keep: globs of names that stay as they are. `dequantise` is the way back, within half a scale.
    """
    packed = {}
    for name, one in tensors.items():
        rows = one.shape[0] if one.ndim else 1
        small = one.ndim < 2 or rows < 2 or one.numel() < INT8_MIN_SIZE
        if small or not one.is_floating_point() or _kept(name, keep):
            packed[name] = one.half() if one.dtype == torch.float32 and not _kept(name, keep) else one
            continue
        flat = one.detach().float().reshape(rows, -1)
        scale = flat.abs().amax(1).div(127)
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        packed[name] = (flat / scale[:, None]).round().to(torch.int8).reshape(one.shape)
        packed[f"{name}_scale"] = scale
    return packed


def _kept(name: str, keep: Sequence[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in keep)


def _scale_names(name: str) -> tuple[str, ...]:
    layer, dot, last = name.rpartition(".")
    return (f"{name}_scale", f"{layer}{dot}scale_weight") if last == "weight" else (f"{name}_scale",)


def _scaled_by(name: str, tensors: Mapping[str, Any]) -> bool:
    """Whether `name` is the scale of another tensor that is there and quantised."""
    if name.endswith("scale_weight"):
        return True
    owner = tensors.get(name.removesuffix("_scale"))
    return name.endswith("_scale") and owner is not None and owner.dtype in (*FLOAT8, torch.int8)


def _check_format(name: str, one: Tensor) -> None:
    if one.is_meta:
        return
    stated = json.loads(bytes(one.flatten().tolist()))
    if stated.get("format") not in {"float8_e4m3fn", "float8_e5m2"}:
        raise ValueError(
            f"{name} states the format {stated.get('format')!r}; only float8_e4m3fn and float8_e5m2 are known"
        )


def _times(name: str, one: Tensor, scale: Tensor | None) -> Tensor:
    if scale is None:
        return one.float()
    if scale.numel() not in (1, one.shape[0] if one.ndim else 1):
        shapes = f"{tuple(scale.shape)} for a weight of {tuple(one.shape)}"
        raise ValueError(f"{name} has a scale of {shapes}; only one number, or one per row, is known")
    return one.float() * scale.float().reshape(-1, *[1] * (one.ndim - 1))
