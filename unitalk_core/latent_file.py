"""Latents in a file, of any model: all streams, their masks, and what else belongs to them.

A safetensors file with `stream.<i>`, `mask.<i>` and `more.<name>`; its metadata `unitalk_latent` says what
there must be, so that a file is read whole or not at all.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from .weights.files import read_metadata, read_tensors, save_tensors

SUFFIX = ".latent.safetensors"
MARK = "unitalk_latent"
VERSION = 1


@dataclass(frozen=True)
class StoredLatent:
    """streams, masks: as many as there are, each of any shape; more: values that JSON holds, and tensors."""

    streams: tuple[Tensor, ...]
    masks: tuple[Tensor, ...] = ()
    more: dict[str, Any] = field(default_factory=dict)


def save_latent(path: str | Path, latent: StoredLatent, metadata: dict[str, Any] | None = None) -> None:
    """Write a file whole or not at all. ValueError for what a file cannot hold, OSError for a bad place."""
    tensors = {f"stream.{i}": one for i, one in enumerate(latent.streams)}
    tensors |= {f"mask.{i}": one for i, one in enumerate(latent.masks)}
    tensors |= {f"more.{name}": one for name, one in latent.more.items() if isinstance(one, Tensor)}
    plain = {name: one for name, one in latent.more.items() if not isinstance(one, Tensor)}
    for name, one in plain.items():
        _check_plain(name, one)
    told = {"version": VERSION, "tensors": sorted(tensors), "more": plain}
    copies = {name: one.detach().clone() for name, one in tensors.items()}  # streams may be views of one pack
    save_tensors(path, copies, {**(metadata or {}), MARK: told})


def read_latent(path: str | Path) -> StoredLatent:
    """What `save_latent` wrote, bit for bit. FileNotFoundError, or ValueError for another or damaged file."""
    told = _told(path)
    tensors = read_tensors(path)
    if sorted(tensors) != told["tensors"]:
        lost = ", ".join(sorted(set(told["tensors"]) ^ set(tensors)))
        raise ValueError(f"{path} is not as it was saved: {lost} differ; save the latent again")
    parts = {kind: _numbered(tensors, kind) for kind in ("stream", "mask")}
    named = {name.removeprefix("more."): one for name, one in tensors.items() if name.startswith("more.")}
    return StoredLatent(parts["stream"], parts["mask"], told["more"] | named)


def _told(path: str | Path) -> dict[str, Any]:
    try:
        told = json.loads(read_metadata(path)[MARK])
    except (KeyError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} holds no latent of UniTalk Save Latent; use the stock Load Latent for a stock file"
        ) from error
    if told.get("version") != VERSION:
        raise ValueError(f"{path} is of version {told.get('version')}, this reads {VERSION}; update the pack")
    return told


def _numbered(tensors: dict[str, Tensor], kind: str) -> tuple[Tensor, ...]:
    count = sum(name.startswith(f"{kind}.") for name in tensors)
    return tuple(tensors[f"{kind}.{i}"] for i in range(count))


def _check_plain(name: str, value: Any) -> None:
    try:
        same = json.loads(json.dumps(value)) == value
    except (TypeError, ValueError):
        same = False
    if not same:
        raise ValueError(
            f"the latent carries {name} of type {type(value).__name__}, which a file cannot hold; leave out "
            "the node that adds it"
        )
