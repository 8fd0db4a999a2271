"""Weights in another spelling, another precision, in one file or one for each stream, with LoRAs added.

Tensor by tensor: a file may be larger than memory. What is not asked for stays bit for bit as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..av import AV
from ..config import ModelConfig
from .files import DTYPE_NAMES, Entry, WeightsFile, open_weights, read_metadata, write_tensors
from .formats import AUDIO, VIDEO, spelling
from .keymaps import Found, recognise
from .lora import Lora, is_lora_file
from .quantised import FLOAT8, MATRIX, QUANT_MARKS, SCALED, check_scales, dequantise, quantise_fp8, scale_of

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FP8_SCALED = "fp8_scaled"
LARGE = ("model", "text encoder")  # parts whose matrices may become fp8


class Job(NamedTuple):
    """Tensors that are made together, by our names, and what they will be."""

    entries: dict[str, Entry]
    make: Callable[[], dict[str, Tensor]]


@dataclass
class Weights:
    """One part, of one file or of several, under our names."""

    part: str
    prefix: str  # of its names in the file
    entries: dict[str, Entry] = field(default_factory=dict)
    places: dict[str, tuple[WeightsFile, str]] = field(default_factory=dict)  # our name: file, its name there
    metadata: dict[str, str] = field(default_factory=dict)

    def read(self, name: str) -> Tensor:
        file, theirs = self.places[name]
        return file.read(theirs)

    def plain(self, name: str) -> Tensor:
        """A weight in float32, times its scale if it has one."""
        group = {one: self.read(one) for one in (name, scale_of(name, self.entries)) if one is not None}
        return dequantise(group, torch.float32)[name]


def convert(
    sources: Sequence[str | Path],
    out: str | Path,
    form: str | None = None,
    dtype: str | None = None,
    split: bool = False,
    loras: Sequence[Lora] = (),
    on_tensor: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write what the sources hold to `out`, or split to out_video and out_audio; returns what was written.

    form: comfy, original or diffusers names; None keeps those of the source. dtype: fp32, bf16, fp16 or
    fp8_scaled; None keeps each tensor's. on_tensor(bytes written, of all) follows. ValueError and OSError.
    """
    weights = open_parts(sources)
    changes = [(lora, lora.changes(shapes_of(weights))) for lora in loras]
    jobs = list(planned(weights, dtype, changes))
    files = by_stream(jobs, Path(out), sources[0]) if split else {Path(out): jobs}
    total = sum(one.bytes for part in files.values() for job in part for one in job.entries.values())
    done = 0
    for path, part in files.items():
        names = [name for job in part for name in job.entries]
        spelled = spelling(names, weights.part, form, own_names(weights) if len(sources) == 1 else None)

        def made(
            part: list[Job] = part, spelled: Mapping[str, str] = spelled
        ) -> Iterator[tuple[str, Tensor]]:
            nonlocal done
            for job in part:
                for name, one in job.make().items():
                    yield spelled[name], one
                    done += job.entries[name].bytes
                    if on_tensor is not None:
                        on_tensor(done, total)

        entries = {spelled[name]: one for job in part for name, one in job.entries.items()}
        write_tensors(path, entries, made(), {"format": "pt"} | metadata_for(weights.metadata, names))
    return list(files)


def open_parts(sources: Sequence[str | Path]) -> Weights:
    """What the files hold. ValueError for parts that are not of one model, or a name that two files hold."""
    weights: Weights | None = None
    for source in sources:
        file, found = open_part(source)
        part, names = found.kind.part, found.take({name: name for name in file.entries})
        weights = weights or Weights(part, found.prefix)
        if part != weights.part or (len(sources) > 1 and part != "model"):
            raise ValueError(f"{source} holds a {part}; only the streams of one model can be merged")
        twice = sorted(names.keys() & weights.places.keys() - set(QUANT_MARKS))
        if twice:
            raise ValueError(f"{source} holds {twice[0]}, which another file holds already")
        weights.places |= {ours: (file, theirs) for ours, theirs in names.items()}
        weights.entries |= {ours: file.entries[theirs] for ours, theirs in names.items()}
        weights.metadata = joined_metadata(weights.metadata, read_metadata(source))
    check_scales(weights.entries)
    return weights


def open_part(source: str | Path) -> tuple[WeightsFile, Found]:
    """A file and the only part in it."""
    file = open_weights(source)
    if is_lora_file(file.entries):
        raise ValueError(f"{source} is a LoRA; name the model it belongs to, and the LoRA with --lora")
    found = recognise(file.entries)
    if len(found) != 1:
        holds = " and ".join(one.kind.name for one in found) or "nothing that this project knows"
        raise ValueError(f"{source} holds {holds}; give a file of one model, VAE, vocoder or text encoder")
    return file, found[0]


def shapes_of(weights: Weights) -> dict[str, tuple[int, ...]]:
    return {name: one.shape for name, one in weights.entries.items()}


def own_names(weights: Weights) -> Callable[[str], str]:
    """From our names to those in the file; what is new is named after its weight."""

    def own(name: str) -> str:
        if name in weights.places:
            return weights.places[name][1]
        stem = name.removesuffix("scale_weight")
        return (
            weights.prefix + name
            if stem == name
            else own(stem + "weight").removesuffix("weight") + "scale_weight"
        )

    return own


# --- what becomes of each tensor -------------------------------------------------------------------------


def planned(
    weights: Weights, dtype: str | None, changes: Sequence[tuple[Lora, Mapping[str, list[str]]]]
) -> Iterator[Job]:
    """A job for each weight. ValueError where a precision or a LoRA asks for what cannot be."""
    if dtype == FP8_SCALED and weights.part not in LARGE:
        raise ValueError(
            f"fp8_scaled is for models and text encoders, not for a {weights.part}; use fp16 or bf16"
        )
    scales = {scale_of(name, weights.entries) for name in weights.entries}
    for name in (one for one in weights.entries if one not in scales):
        if name.rpartition(".")[2] in QUANT_MARKS and dtype is not None:
            continue
        added = [(lora, one) for lora, targets in changes for one in targets.get(name, ())]
        if added and dtype is None and is_quantised(weights, name):
            raise ValueError(
                f"a LoRA cannot be added to fp8 or int8 as it is, such as {name}; choose a --dtype"
            )
        yield job(weights, name, dtype, partial(summed, weights, name, added) if added else None)
    if dtype == FP8_SCALED:
        empty = torch.empty(0, dtype=torch.float8_e4m3fn)
        yield Job({SCALED: Entry(empty.dtype, (0,))}, lambda: {SCALED: empty})


def job(weights: Weights, name: str, dtype: str | None, value: Callable[[], Tensor] | None = None) -> Job:
    """What one weight becomes. value: of it, in float32, if it is not the file's."""
    entry, quantised = weights.entries[name], is_quantised(weights, name)
    number = entry.dtype.is_floating_point or quantised
    if not number and dtype is not None and name.endswith("weight"):
        raise ValueError(
            f"{name} is {DTYPE_NAMES[entry.dtype]}; only floating point, fp8 and int8 are converted"
        )
    done = dtype == FP8_SCALED and (scale_of(name, weights.entries) or "").endswith("scale_weight")
    if not number or ((dtype is None or done) and value is None):
        return as_it_is(weights, name)
    value = value or partial(weights.plain, name)
    if dtype == FP8_SCALED and len(entry.shape) == 2 and MATRIX.search(name):
        return in_fp8(weights, name, value)
    wide = entry.dtype in (torch.float32, torch.float64) or quantised
    rest = torch.bfloat16 if wide else entry.dtype  # beside fp8
    wanted = entry.dtype if dtype is None else DTYPES.get(dtype, rest)
    return Job({name: Entry(wanted, entry.shape)}, lambda: {name: cast(name, value(), wanted)})


def is_quantised(weights: Weights, name: str) -> bool:
    return weights.entries[name].dtype in FLOAT8 or scale_of(name, weights.entries) is not None


def as_it_is(weights: Weights, name: str) -> Job:
    """A weight with its scale, bit for bit."""
    names = [one for one in (name, scale_of(name, weights.entries)) if one is not None]
    return Job(
        {one: weights.entries[one] for one in names}, lambda: {one: weights.read(one) for one in names}
    )


def in_fp8(weights: Weights, name: str, value: Callable[[], Tensor]) -> Job:
    scale = name.removesuffix("weight") + "scale_weight"
    entries = {name: Entry(torch.float8_e4m3fn, weights.entries[name].shape), scale: Entry(torch.float32, ())}
    return Job(entries, lambda: dict(zip((name, scale), quantise_fp8(value()), strict=True)))


def summed(weights: Weights, name: str, added: Sequence[tuple[Lora, str]]) -> Tensor:
    """A weight with its LoRAs, in float32: rounded once, afterwards."""
    return sum((lora.change(name, entry) for lora, entry in added), start=weights.plain(name))


def cast(name: str, one: Tensor, dtype: torch.dtype) -> Tensor:
    made = one.to(dtype)
    if not torch.isfinite(made).all() and torch.isfinite(one).all():
        largest = float(one.abs().max())
        raise ValueError(f"{name} holds {largest:g}, for which {str(dtype)[6:]} has no room; use bf16")
    return made


# --- streams ---------------------------------------------------------------------------------------------


def by_stream(jobs: Sequence[Job], out: Path, source: str | Path) -> dict[Path, list[Job]]:
    """Each stream's jobs by its file. Marks of the file go to both, the rest to the picture."""
    names = [next(iter(one.entries)) for one in jobs]
    if not all(any(name.startswith(prefix) for name in names) for prefix in (VIDEO, AUDIO)):
        raise ValueError(f"{source} holds no two streams that could be split")
    sound = [name.startswith(AUDIO) for name in names]
    marks = [name.rpartition(".")[2] in QUANT_MARKS for name in names]
    return {
        beside(out, "video"): [job for job, heard in zip(jobs, sound, strict=True) if not heard],
        beside(out, "audio"): [
            job for job, heard, mark in zip(jobs, sound, marks, strict=True) if heard or mark
        ],
    }


def beside(out: Path, stream: str) -> Path:
    return out.with_name(f"{out.stem}_{stream}{out.suffix}")


def joined_metadata(first: Mapping[str, str], second: Mapping[str, str]) -> dict[str, str]:
    """Of two streams: the configuration has both."""
    tables = [json.loads(one.get("unitalk", "{}")) for one in (first, second)]
    if not all("model" in one for one in tables):
        return {**first, **second}
    configs = [ModelConfig.from_json(one["model"]) for one in tables]
    table = tables[0] | tables[1] | {"model": configs[0].joined(configs[1]).to_json()}
    return {**first, **second, "unitalk": json.dumps(table)}


def metadata_for(metadata: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """Of the streams that a file holds. Ovi's are of no use alone, and keep the whole configuration."""
    table = json.loads(metadata.get("unitalk", "{}"))
    if "model" not in table:
        return dict(metadata)
    config = ModelConfig.from_json(table["model"])
    held = AV(*(any(name.startswith(prefix) for name in names) for prefix in (VIDEO, AUDIO)))
    if config.coupling != "fusion":
        streams = config.streams.map(lambda stream, here: stream if here else None, held)
        config = replace(config, streams=streams)
    return {**metadata, "unitalk": json.dumps(table | {"model": config.to_json()})}
