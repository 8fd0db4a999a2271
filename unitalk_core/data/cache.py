"""Clips as latents and text features in files: made once, checked, and read again by every training run.

A cache is a folder with `cache.json` (settings, clips) and a safetensors file for each clip, which says in
its metadata where it came from. What is there and still true is never made again.

c channels · f latent frames · h, w latent rows, columns · n, m audio latents · len tokens · dim width
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..av import AV, Clip, ClipFormat
from ..media import replacing
from ..pipeline import Bundle, decode
from ..weights.files import read_metadata, read_shapes, read_tensors, save_tensors
from .checks import Finding, OnClip, check_rows, refuse, sha256
from .clips import Row, Timing, read_rows
from .encoders import Encoders, encode_row, usual_size

log = logging.getLogger("unitalk")

VERSION = 1
INDEX, HIDDEN = "cache.json", ".unitalk"
SPARE = 1.5  # times the disk space that the latents need: features of the texts, and room


@dataclass(frozen=True)
class Text:
    """A finished prompt and its features (len, dim), without rows beyond the text."""

    prompt: str
    features: Tensor


@dataclass(frozen=True, kw_only=True)
class Item:
    """One clip as a model sees it, latents normalised, tensors in fp16.

    reference: the same voice saying something else, or None; texts: by form, `clips.FORMS` and the row's own;
    mouth: the latents that a mouth touches; words, phones: (text, start, end) in seconds where known.
    """

    name: str
    video: Tensor | None  # (c, f, h, w)
    audio: Tensor  # (c, n)
    reference: Tensor | None  # (c, m)
    texts: Mapping[str, Text]
    mouth: Tensor | None = None  # (f, h, w) bool
    speaker: str = ""
    words: Timing = ()
    phones: Timing = ()


def decode_item(item: Item, encoders: Encoders) -> Clip:
    """The clip that an item holds, to look at and listen to."""
    clip = encoders.config.format
    frames = clip.max_frames if item.video is None else (item.video.shape[1] - 1) * clip.frame_stride + 1
    like = next(encoders.video_vae.parameters())
    latents = AV(item.video, item.audio).map(lambda one: one[None].to(like))
    bundle = Bundle(nn.Identity(), encoders.config, encoders.video_vae, encoders.audio_codec, None)
    return decode(bundle, latents, frames)


# ---- the folder --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cache:
    """Items in the order of the dataset. index: what `cache.json` says."""

    folder: Path
    index: Mapping[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Cache:
        """A finished cache. Raises FileNotFoundError, or ValueError for a damaged or unfinished one."""
        folder = Path(folder)
        index = _read_index(folder)
        if index is None:
            raise FileNotFoundError(f"{folder} holds no {INDEX}; make a cache with prepare")
        if index["clips"] is None:
            raise ValueError(f"the cache {folder} is unfinished; run prepare again, it goes on from there")
        cache = cls(folder, index)
        if missing := [name for name in cache.names if not cache.path(name).is_file()]:
            raise FileNotFoundError(
                f"the cache {folder} lacks {len(missing)} of {len(cache)} clips, such as {missing[0]}; "
                "run prepare again"
            )
        return cache

    def __len__(self) -> int:
        return len(self.index["clips"])

    def __getitem__(self, i: int) -> Item:
        name = self.names[i]
        return _item(read_tensors(self.path(name)), self.known(name))

    @cached_property
    def names(self) -> list[str]:
        return [one["name"] for one in self.index["clips"]]

    @cached_property
    def speakers(self) -> list[str]:
        """Who speaks in each clip, "" where it is not said."""
        return [one["speaker"] for one in self.index["clips"]]

    def forms(self, i: int) -> list[str]:
        """Which captions a clip has."""
        return list(self.known(self.names[i])["prompts"])

    @cached_property
    def shapes(self) -> list[tuple[int, int, int, int]]:
        """Latent frames, rows, columns, audio latents of each clip; the first three 0 without a picture."""
        return [tuple(one["shape"]) for one in self.index["clips"]]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the picture."""
        return tuple(self.index["settings"]["size"])

    @cached_property
    def fingerprint(self) -> str:
        """Changes with any setting, encoder or clip, and stays the same wherever the folder lies."""
        clips = [[one["name"], one["digest"]] for one in self.index["clips"]]
        return _digest([self.index["settings"], clips])

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def known(self, name: str) -> dict[str, Any]:
        """The metadata of an entry: where it came from, and what it says."""
        return _read_known(self.path(name))

    def verify(self, deep: bool = False) -> list[str]:
        """What is wrong, a sentence for each clip; an empty list is good.

        deep: read every tensor and every source again, instead of trusting sizes and times of files.
        """
        return [
            f"{name}: {wrong}" for i, name in enumerate(self.names) for wrong in self._wrong(i, name, deep)
        ]

    def _wrong(self, i: int, name: str, deep: bool) -> Iterator[str]:
        try:
            known = self.known(name)
            if known["digest"] != self.index["clips"][i]["digest"]:
                yield f"{self.path(name).name} is not the entry that {INDEX} lists; run prepare again"
            if deep:
                yield from _wrong_tensors(read_tensors(self.path(name)), known, self.shapes[i], self.index)
        except (ValueError, OSError) as error:
            yield str(error)
            return
        for what in ("source", "reference"):
            if known[what] is not None:
                path = Path(os.path.normpath(self.folder / known[what]["path"]))
                if not path.is_file():
                    yield f"its {what} {path} is gone; put it back, or run prepare without it"
                elif not _unchanged(path, known[what], deep):
                    yield f"its {what} {path} has changed since it was encoded; run prepare again"


def prepare(
    rows: Sequence[Row],
    encoders: Encoders,
    folder: Path,
    size: tuple[int, int] | None = None,
    on_clip: OnClip | None = None,
) -> Cache:
    """Encode the clips that `folder` lacks or that have changed since, after all of these have been checked.

    size: (width, height) of the picture. on_clip(i, of, name) after each check and each encoding; what it
    raises interrupts, and the next call goes on from there. Raises ValueError for clips that cannot be used
    and for a folder made with other settings, OSError for too little space.
    """
    folder, size = Path(folder), size or usual_size(encoders.config)
    encoders.config.format.check_size(*size)
    settings = encoders.settings(size)
    before = _check_folder(folder, settings)
    stale = [row for row in rows if not _is_fresh(row, folder, settings)]
    if stale:
        watch = _counted(on_clip, 2 * len(stale))
        findings = check_rows(stale, encoders.config, size, watch, encoders.text_encoder)
        refuse(findings)
        _make_folder(folder)
        _check_space(folder, encoders.config.format, size, findings)
        _write_index(folder, {"version": VERSION, "settings": settings, "clips": None})
        for i, row in enumerate(stale, 1):
            _write_entry(row, encoders, folder, size)
            watch(i, len(stale), row.name)
    clips = [_listed(folder, row.name) for row in rows]
    if gone := before - {row.name for row in rows}:
        log.warning("%s no longer lists %d clips that the dataset lacks now", folder, len(gone))
    index = {"version": VERSION, "settings": settings, "clips": clips}
    if index != _read_index(folder):
        _write_index(folder, index)
        log.info("%d clips in %s, %d of them new", len(rows), folder, len(stale))
    return Cache.open(folder)


def cache_for(
    data: Path, encoders: Encoders, size: tuple[int, int] | None = None, on_clip: OnClip | None = None
) -> Cache:
    """`data` itself if it is a cache of these encoders and this size; else one made from it, inside of it."""
    data = Path(data)
    if (data / INDEX).is_file():
        cache = Cache.open(data)
        _check_folder(data, encoders.settings(size or cache.size))
        return cache
    rows, size = read_rows(data), size or usual_size(encoders.config)
    return prepare(rows, encoders, data / HIDDEN / _digest(encoders.settings(size))[:12], size, on_clip)


def _counted(on_clip: OnClip | None, of: int) -> OnClip:
    """Counts checks and encodings as one."""
    done = 0

    def watch(_: int, __: int, name: str) -> None:
        nonlocal done
        done += 1
        if on_clip is not None:
            on_clip(done, of, name)

    return watch


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"{folder} cannot be made ({error.strerror}); prepare into a folder elsewhere"
        ) from error


def _check_folder(folder: Path, settings: Mapping[str, Any]) -> set[str]:
    """The names that `folder` lists so far; ValueError if it was begun with other settings."""
    index = _read_index(folder)
    if index is None:
        return set()
    for key, wanted in settings.items():
        found = index["settings"].get(key)
        if found != wanted and key == "encoders":
            other = " and ".join(name for name, one in wanted.items() if found.get(name) != one)
            raise ValueError(f"{folder} was made with another {other}; give another folder, or that model")
        if found != wanted:
            told = f"{key} {_plain(found)}, not {_plain(wanted)}"
            raise ValueError(f"{folder} was made with {told}; give another folder")
    return {one["name"] for one in index["clips"] or ()}


def _plain(value: object) -> str:
    return " x ".join(map(str, value)) if isinstance(value, list) else str(value)


def _check_space(folder: Path, clip: ClipFormat, size: tuple[int, int], findings: Sequence[Finding]) -> None:
    """OSError if the latents will not fit on the disk."""
    shapes = [clip.latent_shape(one.frames, *size) for one in findings]
    need = SPARE * sum(2 * torch.Size(part).numel() for shape in shapes for part in shape.present())
    free = shutil.disk_usage(folder).free
    if need > free:
        raise OSError(
            f"{folder} needs about {need / 1e6:.0f} MB and its disk has {free / 1e6:.0f} MB left; make room"
        )


# ---- files -------------------------------------------------------------------------------------------------


def _read_index(folder: Path) -> dict[str, Any] | None:
    """What `cache.json` says, None if there is none. ValueError for a damaged or foreign one."""
    path = folder / INDEX
    if not path.is_file():
        return None
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        version = index["version"]
        index["settings"], index["clips"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged; delete it and run prepare again") from error
    if version != VERSION:
        raise ValueError(
            f"{path} has version {version}, this program writes {VERSION}; prepare another folder"
        )
    return index


def _write_index(folder: Path, index: Mapping[str, Any]) -> None:
    with replacing(folder / INDEX) as temporary:
        temporary.write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def _read_known(path: Path) -> dict[str, Any]:
    try:
        return json.loads(read_metadata(path)["unitalk"])
    except (KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no entry of a cache; delete it and run prepare again") from error


def _write_entry(row: Row, encoders: Encoders, folder: Path, size: tuple[int, int]) -> None:
    stamps = {
        "source": _stamp(row.video, folder),
        "reference": None if row.reference is None else _stamp(row.reference, folder),
    }  # before reading: what changes from now on will be noticed
    tensors, known = encode_row(row, encoders, size)
    known |= stamps | {"settings": _digest(encoders.settings(size)), "row": _row_digest(row)}
    sources = [None if one is None else one["sha256"] for one in stamps.values()]
    known["digest"] = _digest([known["settings"], known["row"], sources])
    save_tensors(folder / f"{row.name}.safetensors", tensors, {"unitalk": json.dumps(known)})


def _listed(folder: Path, name: str) -> dict[str, Any]:
    """What the index says of an entry."""
    path = folder / f"{name}.safetensors"
    shapes, known = read_shapes(path), _read_known(path)
    shape = [*shapes.get("video", (0, 0, 0, 0))[1:], shapes["audio"][1]]
    return {"name": name, "speaker": known["speaker"], "shape": shape, "digest": known["digest"]}


def _is_fresh(row: Row, folder: Path, settings: Mapping[str, Any]) -> bool:
    """Whether the entry of this clip is there and was made of the same row, files and settings."""
    path = folder / f"{row.name}.safetensors"
    if not path.is_file():
        return False
    try:
        known = _read_known(path)
    except ValueError:
        return False
    if (known["settings"], known["row"]) != (_digest(settings), _row_digest(row)):
        return False
    files = {"source": row.video, "reference": row.reference}
    return all(
        path is None or (path.is_file() and _unchanged(path, known[what])) for what, path in files.items()
    )


def _row_digest(row: Row) -> str:
    """Of all that a row says itself, besides its files."""
    said = {one.name: getattr(row, one.name) for one in fields(Row) if one.name not in ("video", "reference")}
    return _digest(said | {"reference": row.reference is not None, "captions": dict(row.captions)})


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _stamp(path: Path, folder: Path) -> dict[str, Any]:
    """What tells later whether a file is still the same."""
    told = path.stat()
    return {
        "path": _relative(path, folder),
        "size": told.st_size,
        "mtime_ns": told.st_mtime_ns,
        "sha256": sha256(path),
    }


def _relative(path: Path, folder: Path) -> str:
    """`path` as seen from `folder`, so that both may move together; whole, where they share no drive."""
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:
        return str(path.resolve())


def _unchanged(path: Path, stamp: Mapping[str, Any], deep: bool = False) -> bool:
    """By size and time; if the time differs, or for a `deep` look, by content."""
    told = path.stat()
    if told.st_size != stamp["size"]:
        return False
    return (not deep and told.st_mtime_ns == stamp["mtime_ns"]) or sha256(path) == stamp["sha256"]


def _item(tensors: Mapping[str, Tensor], known: Mapping[str, Any]) -> Item:
    prompts = list(dict.fromkeys(known["prompts"].values()))
    texts = {
        form: Text(prompt, tensors[f"text.{prompts.index(prompt)}"])
        for form, prompt in known["prompts"].items()
    }
    return Item(
        name=known["name"],
        video=tensors.get("video"),
        audio=tensors["audio"],
        reference=tensors.get("reference"),
        texts=texts,
        mouth=tensors.get("mouth"),
        speaker=known["speaker"],
        words=known["words"],
        phones=known["phones"],
    )


def _wrong_tensors(
    tensors: Mapping[str, Tensor], known: Mapping[str, Any], shape: tuple[int, ...], index: Mapping[str, Any]
) -> Iterator[str]:
    """What does not fit in an entry's tensors."""
    for name, one in tensors.items():
        if not torch.isfinite(one).all():
            yield f"its {name} holds values that are not numbers; delete the entry and run prepare again"
    stored = index["settings"]["format"]
    want = ClipFormat(**stored | {"fps": Fraction(stored["fps"])}).audio_latents(known["frames"])
    picture = tuple(tensors["video"].shape[1:]) if "video" in tensors else (0, 0, 0)
    if (*picture, tensors["audio"].shape[1]) != shape or shape[3] != want:
        yield (
            f"its latents {picture} and {tensors['audio'].shape[1]} do not last the {known['seconds']:.2f} s "
            "of the clip; delete the entry and run prepare again"
        )
