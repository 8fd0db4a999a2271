"""Tensors in files: safetensors (whole or in shards) and pickles without code, read and written strictly.

A file fits a module exactly or not at all; nothing is written half. Quantised weights (fp8 with a scale, our
own int8) become floating point in `dequantise`, so everything above sees plain tensors.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

log = logging.getLogger("unitalk")

PICKLES = (".pth", ".pt", ".bin", ".ckpt")
WRAPPERS = (
    "generator",
    "module",
    "app.model",
    "app",
    "model",
    "state_dict",
)  # top keys that hold the weights
SHARD = re.compile(r"-\d{5}-of-(?!00001)\d{5}\.")
FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
REFUSED = ("GLOBAL", "unrecognized function")  # in what torch says of a pickle that holds more than tensors
QUANT_MARKS = ("scaled_fp8", "scale_input", "input_scale", "comfy_quant")  # last part of a name; no weights
INT8_MIN_SIZE = 1024  # elements; smaller tensors stay floating point


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Every tensor of a file: .safetensors, an .index.json and its shards, or a pickle of tensors alone.

    Raises FileNotFoundError for a missing file or shard, ValueError for a damaged, foreign or unsafe one.
    """
    path = _existing(path)
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    if SHARD.search(path.name):
        raise ValueError(f"{path} is one of several shards; name the .safetensors.index.json beside it")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in PICKLES:
        return _read_pickle(path)
    raise ValueError(
        f"{path} is no weights file; use .safetensors, .safetensors.index.json, {', '.join(PICKLES)}"
    )


def read_metadata(path: str | Path) -> dict[str, str]:
    """The text metadata of a safetensors file; empty for every other kind."""
    path = _existing(path)
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def read_bytes(path: str | Path, name: str) -> bytes | None:
    """The tensor of bytes of that name in a safetensors file; None if there is none."""
    path = _existing(path)
    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, framework="pt") as file:
            return bytes(file.get_tensor(name).tolist()) if name in file.keys() else None  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def read_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes without the data, for a look at a file of any size."""
    path = _existing(path)
    if path.suffix != ".safetensors":
        return {name: tuple(one.shape) for name, one in read_tensors(path).items()}
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 not a dict
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def save_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None
) -> None:
    """Write a safetensors file under a temporary name, then rename it: it is whole or not there.

    metadata: values that are not text are written as JSON.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist")
    text = {key: one if isinstance(one, str) else json.dumps(one) for key, one in (metadata or {}).items()}
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.touch()
        mode = part.stat().st_mode  # safetensors would let nobody else read it
        save_file(
            {name: one.detach().cpu().contiguous() for name, one in tensors.items()}, part, metadata=text
        )
        part.chmod(mode)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Put `tensors` into `module`; any difference in names or shapes is a ValueError with examples.

    The module takes over the tensors as they are, dtype included; it may have been built on the meta device.
    """
    want = {name: tuple(one.shape) for name, one in module.state_dict().items()}
    have = {name: tuple(one.shape) for name, one in tensors.items()}
    if want != have:
        missing, extra = sorted(want.keys() - have.keys()), sorted(have.keys() - want.keys())
        both = sorted(want.keys() & have.keys())
        shapes = [f"{name} {have[name]} for {want[name]}" for name in both if want[name] != have[name]]
        raise ValueError(
            f"{source} does not fit {type(module).__name__}: {len(missing)} missing {missing[:3]}, "
            f"{len(extra)} extra {extra[:3]}, {len(shapes)} of another shape {shapes[:3]}"
        )
    module.load_state_dict(dict(tensors), assign=True)


def dequantise(tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Floating point weights from quantised ones; every other tensor is passed on as it is.

    Scales: `<linear>.scale_weight` or `<name>_scale`, one number, or one per row of the first axis.
    dtype: of what was quantised; by default float16 for fp8 (which it holds exactly) and float32 for int8,
    with the float16 that stands beside int8.
    """
    plain, int8 = {}, any(one.dtype == torch.int8 for one in tensors.values())
    for name, one in tensors.items():
        if name.rpartition(".")[2] in QUANT_MARKS or _scaled_by(name, tensors):
            _check_format(name, one)
            continue
        scale = next((tensors[key] for key in _scale_names(name) if key in tensors), None)
        if one.dtype in FLOAT8 or (one.dtype == torch.int8 and scale is not None):
            usual = torch.float16 if one.dtype in FLOAT8 else torch.float32
            plain[name] = _times(name, one, scale).to(dtype or usual)
        elif int8 and one.dtype == torch.float16:
            plain[name] = one.to(dtype or torch.float32)
        else:
            plain[name] = one
    return plain


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


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    return path


def _damaged(path: Path, error: Exception) -> ValueError:
    told = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    reason = told.split("\n")[0].split(". ")[0].rstrip(".") or type(error).__name__
    return ValueError(f"{path} is cut off or no {path.suffix} file ({reason}); fetch it again")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 not a dict
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _read_shards(path: Path) -> dict[str, Tensor]:
    try:
        shards = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is no index of shards: it has no 'weight_map' of names to files") from error
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        tensors |= _read_safetensors(_existing(path.with_name(shard)))
    return tensors


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not _is_refusal(path, str(error)):
            raise _damaged(path, error) from error
        raise ValueError(
            f"{path} holds code besides tensors, which is never run; use a safetensors file"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise _damaged(path, error) from error
    return _unwrapped(path, content)


def _is_refusal(path: Path, told: str) -> bool:
    """Whether torch would not read a whole pickle, rather than could not read a broken one."""
    with path.open("rb") as file:
        plain_pickle = file.read(1) == pickle.PROTO
    return any(mark in told for mark in REFUSED) or (plain_pickle and "Unsupported operand" in told)


def _unwrapped(path: Path, content: object) -> dict[str, Tensor]:
    while isinstance(content, dict):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} holds a {type(content).__name__} instead of a table of named tensors")
    other = sorted(str(key) for key, one in content.items() if not isinstance(one, Tensor))
    if other:
        raise ValueError(
            f"{path} holds {len(other)} things that are no tensors, such as {', '.join(other[:3])}"
        )
    return dict(content)


def _scale_names(name: str) -> tuple[str, ...]:
    layer, dot, last = name.rpartition(".")
    return (f"{name}_scale", f"{layer}{dot}scale_weight") if last == "weight" else (f"{name}_scale",)


def _scaled_by(name: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether `name` is the scale of another tensor that is there and quantised."""
    if name.endswith("scale_weight"):
        return True
    owner = tensors.get(name.removesuffix("_scale"))
    return name.endswith("_scale") and owner is not None and owner.dtype in (*FLOAT8, torch.int8)


def _check_format(name: str, one: Tensor) -> None:
    if not name.endswith("comfy_quant"):
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
