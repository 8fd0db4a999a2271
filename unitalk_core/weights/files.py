"""Tensors in files: safetensors (whole or in shards) and pickles without code, read and written strictly.

A file fits a module exactly or not at all; nothing is written half. `read_tensors` maps a file: what is not
looked at is not read. `open_weights` and `write_tensors` go tensor by tensor, for files larger than memory.
"""

from __future__ import annotations

import json
import logging
import math
import mmap
import os
import pickle
import re
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

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
REFUSED = ("GLOBAL", "unrecognized function")  # in what torch says of a pickle that holds more than tensors
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}  # as safetensors call them
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
PRECISIONS = (torch.float32, torch.float16, torch.bfloat16)  # that a module computes in


class Entry(NamedTuple):
    """What a file says of a tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class WeightsFile(NamedTuple):
    """What a file holds.

    read: one tensor, in memory of its own; a view of the file in a pickle that does not tell where it lies.
    mapped: all as views of the file.
    """

    entries: dict[str, Entry]
    read: Callable[[str], Tensor]
    mapped: Callable[[], dict[str, Tensor]]

    def empty(self) -> dict[str, Tensor]:
        """All on the meta device: names, shapes and types, no data."""
        items = self.entries.items()
        return {name: torch.empty(one.shape, dtype=one.dtype, device="meta") for name, one in items}


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


def open_weights(path: str | Path) -> WeightsFile:
    """The tensors of what `read_tensors` reads, one by one. The same errors."""
    path = _existing(path)
    if path.name.endswith(".index.json"):
        shards = {name: path.with_name(shard) for name, shard in _shards(path).items()}
        files = {shard: _open_safetensors(_existing(shard)) for shard in sorted(set(shards.values()))}
        for name, shard in shards.items():
            if name not in files[shard].entries:
                raise ValueError(f"{path} says that {shard.name} holds {name}, which is not there")
        entries = {name: files[shard].entries[name] for name, shard in shards.items()}
        return WeightsFile(entries, lambda name: files[shards[name]].read(name), partial(_read_shards, path))
    if path.suffix == ".safetensors" and not SHARD.search(path.name):
        return _open_safetensors(path)
    return _open_pickle(path, read_tensors(path))


def read_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes without the data, for a look at a file of any size."""
    return {name: one.shape for name, one in open_weights(path).entries.items()}


def save_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None
) -> None:
    """Write a safetensors file under a temporary name, then rename it: it is whole or not there.

    metadata: values that are not text are written as JSON.
    """
    with _whole(path) as part:
        mode = part.stat().st_mode  # safetensors would let nobody else read it
        plain = {name: one.detach().cpu().contiguous() for name, one in tensors.items()}
        save_file(plain, part, metadata=_as_text(metadata))
        part.chmod(mode)


def write_tensors(
    path: str | Path,
    entries: Mapping[str, Entry],
    tensors: Iterable[tuple[str, Tensor]],
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """The same for tensors that come one by one, in any order, each as its entry says.

    OSError, before the first is asked for, if the disk has no room.
    """
    head, starts = _head(entries, metadata)
    size = len(head) + sum(one.bytes for one in entries.values())
    free = shutil.disk_usage(Path(path).resolve().parent).free if Path(path).parent.is_dir() else size
    if free < size:
        raise OSError(f"{path} takes {size / 1e9:.1f} GB, and its disk has {free / 1e9:.1f} GB left")
    with _whole(path) as part, part.open("wb") as file:
        file.write(head)
        file.truncate(size)
        for name, one in tensors:
            if Entry(one.dtype, tuple(one.shape)) != entries[name]:
                raise ValueError(f"{name} is {one.dtype} {tuple(one.shape)}, not {entries[name]}")
            file.seek(len(head) + starts.pop(name))
            file.write(one.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        if starts:
            raise ValueError(f"{path} would lack {', '.join(sorted(starts)[:3])}")


def _head(entries: Mapping[str, Entry], metadata: Mapping[str, Any] | None) -> tuple[bytes, dict[str, int]]:
    """The beginning of a safetensors file, and where each tensor starts behind it; wide numbers come first.

    Eight bytes with the length of the JSON that follows: huggingface.co/docs/safetensors.
    """
    table: dict[str, Any] = {"__metadata__": _as_text(metadata)}
    starts, end = {}, 0
    for name, one in sorted(entries.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
        starts[name], end = end, end + one.bytes
        place = {"shape": list(one.shape), "data_offsets": [starts[name], end]}
        table[name] = {"dtype": DTYPE_NAMES[one.dtype]} | place
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, starts


def _as_text(metadata: Mapping[str, Any] | None) -> dict[str, str]:
    return {key: one if isinstance(one, str) else json.dumps(one) for key, one in (metadata or {}).items()}


@contextmanager
def _whole(path: str | Path) -> Iterator[Path]:
    """An empty file that is renamed to `path` afterwards, and gone if something went wrong."""
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.touch()
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Put `tensors` into `module`; any difference in names or shapes is a ValueError with examples.

    The module takes over the tensors as they are, dtype included; it may have been built on the meta device.
    A weight must be float32, float16 or bfloat16.
    """
    state = module.state_dict()
    want = {name: tuple(one.shape) for name, one in state.items()}
    have = {name: tuple(one.shape) for name, one in tensors.items()}
    if want != have:
        missing, extra = sorted(want.keys() - have.keys()), sorted(have.keys() - want.keys())
        both = sorted(want.keys() & have.keys())
        shapes = [f"{name} {have[name]} for {want[name]}" for name in both if want[name] != have[name]]
        raise ValueError(
            f"{source} does not fit {type(module).__name__}: {len(missing)} missing {missing[:3]}, "
            f"{len(extra)} extra {extra[:3]}, {len(shapes)} of another shape {shapes[:3]}"
        )
    wrong = [
        f"{name} ({DTYPE_NAMES.get(tensors[name].dtype, tensors[name].dtype)})"
        for name, one in sorted(state.items())
        if one.dtype in PRECISIONS and tensors[name].dtype not in PRECISIONS
    ]
    if wrong:
        raise ValueError(
            f"{source} has {len(wrong)} weights that are not F32, F16 or BF16, such as {', '.join(wrong[:3])}"
        )
    module.load_state_dict(dict(tensors), assign=True)


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


def _open_safetensors(path: Path) -> WeightsFile:
    """By its head. `safe_open` says whether a file is whole; it takes milliseconds to give each tensor."""
    try:
        with safe_open(path, framework="pt"), path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            table = json.loads(file.read(size))
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error
    table.pop("__metadata__", None)
    for name, one in table.items():
        if one["dtype"] not in DTYPES:
            raise ValueError(f"{path} holds {name} as {one['dtype']}; known are {', '.join(DTYPES)}")
    entries = {name: Entry(DTYPES[one["dtype"]], tuple(one["shape"])) for name, one in table.items()}
    return WeightsFile(
        entries,
        lambda name: _read_one(path, 8 + size + table[name]["data_offsets"][0], entries[name]),
        partial(_read_safetensors, path),
    )


def _read_one(path: Path, start: int, entry: Entry) -> Tensor:
    """In pages of its own, which go back to the system with the tensor: malloc keeps what is freed."""
    pages = mmap.mmap(-1, max(1, entry.bytes))
    with path.open("rb") as file:
        file.seek(start)
        if file.readinto(memoryview(pages)[: entry.bytes]) < entry.bytes:
            raise _damaged(path, EOFError())
    return torch.frombuffer(pages, dtype=torch.uint8)[: entry.bytes].view(entry.dtype).reshape(entry.shape)


def _read_shards(path: Path) -> dict[str, Tensor]:
    table, tensors = _shards(path), {}
    for shard in sorted(set(table.values())):
        tensors |= _read_safetensors(_existing(path.with_name(shard)))
    if missing := sorted(table.keys() - tensors.keys()):
        raise ValueError(f"{path} names {len(missing)} tensors that no shard holds, such as {missing[0]}")
    return tensors


def _shards(path: Path) -> dict[str, str]:
    """Names to files, as an index says."""
    try:
        table = dict(json.loads(path.read_text(encoding="utf-8"))["weight_map"])
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is no index of shards: it has no 'weight_map' of names to files") from error
    if other := [one for one in table.values() if not str(one).endswith(".safetensors")]:
        raise ValueError(f"{path} names {other[0]}; only shards in .safetensors are read")
    return {str(name): str(shard) for name, shard in table.items()}


def _read_pickle(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location=device, weights_only=True, mmap=_lies_plain(path))
    except pickle.UnpicklingError as error:
        if not _is_refusal(path, str(error)):
            raise _damaged(path, error) from error
        raise ValueError(
            f"{path} holds code besides tensors, which is never run; use a safetensors file"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise _damaged(path, error) from error
    return _unwrapped(path, content)


def _lies_plain(path: Path) -> bool:
    """Whether numbers lie in a pickle as in memory: in a zip that is not packed, in this byte order."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as file:
            packed = any(one.compress_type != zipfile.ZIP_STORED for one in file.infolist())
            orders = [file.read(name) for name in file.namelist() if name.endswith("/byteorder")]
    except zipfile.BadZipFile:
        return False
    return not packed and all(one.decode() == sys.byteorder for one in orders or [b"little"])


def _open_pickle(path: Path, tensors: dict[str, Tensor]) -> WeightsFile:
    entries = {name: Entry(one.dtype, tuple(one.shape)) for name, one in tensors.items()}
    places = cache(partial(_places, path, tensors))

    def read(name: str) -> Tensor:
        return _read_strided(path, places()[name], tensors[name]) if name in places() else tensors[name]

    return WeightsFile(entries, read, lambda: tensors)


def _places(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Where in the file the numbers of each tensor begin, of those that are plain numbers in a row.

    tensors: views of the file. Empty for an old format, or an older torch, which does not tell it; or if what
    torch tells, reckoned from how it writes files itself, is not as far apart as the views are.
    """
    if not _lies_plain(path):
        return {}
    try:
        told = _read_pickle(path, "meta")
    except ValueError:  # something beside the tensors is not to be had without its numbers
        return {}
    places = {}
    for name, one in tensors.items():
        plain = one.layout == torch.strided and one.dtype in DTYPE_NAMES and not one.is_neg()
        start = getattr(told[name].untyped_storage(), "_checkpoint_offset", None) if plain else None
        if start is not None and one.numel():
            places[name] = start + one.storage_offset() * one.dtype.itemsize
    starts = {tensors[name].data_ptr() - place for name, place in places.items()}
    return places if len(starts) == 1 else {}


def _read_strided(path: Path, start: int, like: Tensor) -> Tensor:
    """The numbers from `start` on, in the type, the shape and the strides of `like`."""
    last = sum((size - 1) * stride for size, stride in zip(like.shape, like.stride(), strict=True))
    return _read_one(path, start, Entry(like.dtype, (last + 1,))).as_strided(like.shape, like.stride())


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
