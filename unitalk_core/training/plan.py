"""What would be trained and what it takes, before anything starts: tensors, memory, disk, steps.

The model may be on the meta device: only its names, shapes and types are looked at. Memory is an estimate:
weights, gradients and optimiser follow from the tensors, activations from what one block was measured to keep
for the backward pass (`BLOCK`). The libraries themselves are not counted.

n tokens · d width
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..av import AV
from ..config import StreamConfig
from ..models.mmdit import JointDiT
from .config import TrainConfig
from .parts import part_of
from .tasks import TASKS

Shape = tuple[int, int, int, int]
"""Of a clip's latents: frames, rows, columns, and how many of the sound."""

BLOCK = {"fp32": 112, "bf16": 84}  # bytes that a block keeps per token and unit of width, FFN left out
FFN = {"fp32": 8, "bf16": 4}  # the same per unit of its hidden width
TEXT = {"fp32": 16, "bf16": 12}  # the same per text or voice token and unit of width
WRITTEN_OUT = {"fp32": 4, "bf16": 2}  # the same per attention weight, where attention is written out
PASSING = 2  # blocks' worth that comes and goes within the backward pass (measured on a CPU)
INPUT = 4  # bytes per token and unit of width of a block's input, all that checkpointing keeps
MOMENTS_8BIT = 2.03  # bytes per parameter of AdamW's two averages, with a scale for each 256
EMA = 4  # bytes per parameter
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Group:
    """A part of the model. how: "whole", "LoRA", "LoRA + whole" or "frozen"."""

    part: str
    how: str
    tensors: int  # that are trained
    parameters: int  # the same
    frozen: int  # parameters


@dataclass(frozen=True)
class Memory:
    """Bytes that a process needs at its peak."""

    weights: int
    gradients: int
    optimizer: int
    ema: int
    activations: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `make_plan` found. held: bytes of the weights that lie in the machine's memory already."""

    config: TrainConfig
    groups: tuple[Group, ...]
    trained: tuple[str, ...]
    memory: Memory
    held: int
    checkpoint: int  # bytes
    result: int  # bytes
    clips: int  # of the data
    tokens: AV[int]  # of the largest clip
    processes: int

    @property
    def disk(self) -> int:
        """Bytes on disk: a checkpoint is written before the oldest one goes, a LoRA of each stays."""
        kept, config = self.config.checkpoints, self.config
        results = 1 + (config.steps // kept.every if config.method == "lora" else 0)
        return (kept.keep + 1) * self.checkpoint + results * self.result

    def text(self) -> str:
        """To be read before the start."""
        return "\n".join([*_head(self), "", *_table(self.groups), "", *_needs(self), *_course(self)])

    def time(self, rate: float, steps: int) -> str:
        """How long `steps` will take at `rate` clips a second."""
        seconds = self.config.batch / rate
        return f"time: {rate:.3g} clips a second, about {duration(steps * seconds)} for {steps} steps"

    def tensors(self) -> str:
        """The trained tensors, block numbers drawn together."""
        return "\n".join(drawn_together(self.trained))

    def to_json(self) -> dict[str, Any]:
        return {
            "groups": [asdict(one) for one in self.groups],
            "trained": list(self.trained),
            "memory": asdict(self.memory) | {"total": self.memory.total},
            "checkpoint": self.checkpoint,
            "disk": self.disk,
            "clips": self.clips,
            "tokens": asdict(self.tokens),
            "processes": self.processes,
        }

    def check(self, out: Path, device: torch.device) -> None:
        """OSError if the disk, ValueError if the memory is too small for this run; one sentence."""
        here = next(one for one in (out.absolute(), *out.absolute().parents) if one.exists())
        stored = sum(file.stat().st_size for file in (out / "checkpoints").rglob("*") if file.is_file())
        need, free = max(0, self.disk - stored), shutil.disk_usage(here).free
        if need > free:
            raise OSError(
                f"this run needs about {size(need)} of disk for its result and "
                f"{self.config.checkpoints.keep + 1} checkpoints, and {out} has {size(free)} left; "
                "choose another folder, or lower checkpoints.keep"
            )
        need = self.memory.total - (self.held if device.type == "cpu" else 0)
        free = free_memory(device)
        if need > free:
            raise ValueError(
                f"this run needs about {size(need)} of memory and {device} has {size(free)} left; "
                f"{', or '.join(savings(self))}"
            )


def make_plan(
    model: nn.Module,
    trained: Collection[str],
    config: TrainConfig,
    shapes: Sequence[Shape],
    *,
    device: torch.device = CPU,
    processes: int = 1,
    sharded: bool = False,
) -> Plan:
    """What training `trained`, parameters of `model`, on `device` takes in each process.

    model: a `JointDiT`, or a module that holds one, with its LoRA. shapes: of the clips of the data.
    sharded: weights and what belongs to them are spread over the processes (FSDP).
    """
    parameters = dict(model.named_parameters())
    if missing := sorted(set(trained) - parameters.keys()):
        raise ValueError(f"the model has no tensor {missing[0]} to train")
    learning = {name: one for name, one in parameters.items() if name in trained}
    joint = next(one for one in model.modules() if isinstance(one, JointDiT))
    largest = max((clip_tokens(joint, shape, config) for shape in shapes), key=lambda one: sum(one.present()))
    clips = math.ceil(config.batch / (processes * config.accumulate))
    own, moments, averages = trained_bytes(learning, config)
    here = {name: one for name, one in learning.items() if not (config.memory.offload and ".blocks." in name)}
    shards = processes if sharded else 1
    return Plan(
        config=config,
        groups=_groups(parameters, set(trained)),
        trained=tuple(learning),
        memory=Memory(
            _weights(model, joint, config, shards) + (0 if sharded else _copies(parameters, here, config)),
            *(size // shards for size in trained_bytes(here, config)),
            activations=clips * activations(joint, largest, config, device),
        ),
        held=total_bytes([one for one in parameters.values() if one.device.type == "cpu"]),
        checkpoint=own + moments + averages,
        result=own if config.method == "lora" else total_bytes(parameters.values()),
        clips=len(shapes),
        tokens=largest,
        processes=processes,
    )


# --- counting --------------------------------------------------------------------------------------------


def count(tensors: Collection[Tensor]) -> int:
    return sum(one.numel() for one in tensors)


def total_bytes(tensors: Collection[Tensor]) -> int:
    return sum(one.numel() * one.element_size() for one in tensors)


def trained_bytes(learning: Mapping[str, Tensor], config: TrainConfig) -> tuple[int, int, int]:
    """Of gradients, the optimiser's moments, and averaged weights."""
    own, parameters = total_bytes(learning.values()), count(learning.values())
    moments = 2 * own if config.optimizer.kind == "adamw" else round(MOMENTS_8BIT * parameters)
    return own, moments, EMA * parameters if config.ema else 0


def clip_tokens(joint: JointDiT, shape: Shape, config: TrainConfig) -> AV[int]:
    """Tokens of a clip in each stream; none of the picture if no task has one."""
    frames, rows, columns, sound = shape
    streams = joint.config.streams
    seen = streams.video is not None and any(TASKS[task].picture for task, w in config.tasks.items() if w)
    t, p, q = streams.video.patch if seen else (1, 1, 1)
    picture = (frames // t) * (rows // p) * (columns // q) if seen else 0
    return AV(picture, 0 if streams.audio is None else sound)


def activations(joint: JointDiT, tokens: AV[int], config: TrainConfig, device: torch.device) -> int:
    """Bytes that one clip needs between forward and backward, at the peak.

    With checkpointing a block keeps its input alone, and one at a time is computed again.
    """
    both = present(joint, tokens)
    depth, block = both[0][0].depth, block_bytes(joint, tokens, config.memory.precision, device)
    if not recomputes(config):
        return (depth + PASSING) * block
    return (1 + PASSING) * block + depth * sum(INPUT * stream.width * n for stream, n in both)


def block_bytes(joint: JointDiT, tokens: AV[int], precision: str, device: torch.device) -> int:
    """What one block keeps of a clip for the backward pass; on a CPU its attention weights too."""
    total = 0
    for stream, n in present(joint, tokens):
        conditions = stream.text_len + (0 if stream.reference == "none" else stream.reference_len)
        total += n * (BLOCK[precision] * stream.width + FFN[precision] * stream.ffn_width)
        total += conditions * TEXT[precision] * stream.width
        if device.type == "cpu":
            seen = tokens.video + tokens.audio + conditions
            total += WRITTEN_OUT[precision] * stream.heads * n * seen
    return total


def present(joint: JointDiT, tokens: AV[int]) -> list[tuple[StreamConfig, int]]:
    """The streams that a clip goes through, with its tokens in them."""
    streams = joint.config.streams
    return [pair for pair in ((streams.video, tokens.video), (streams.audio, tokens.audio)) if pair[1]]


def recomputes(config: TrainConfig) -> bool:
    """Offloaded blocks are checkpointed too."""
    return config.memory.checkpointing or config.memory.offload


def _weights(model: nn.Module, joint: JointDiT, config: TrainConfig, shards: int) -> int:
    """Bytes of the weights: with FSDP a share of them and two whole blocks, with offload only those two."""
    blocks = [one.blocks for one in joint.streams.present()]
    two = 2 * sum(total_bytes(list(one[0].parameters())) for one in blocks)
    whole = total_bytes([*model.parameters(), *model.buffers()])
    if config.memory.offload:
        return whole - sum(total_bytes(list(one.parameters())) for one in blocks) + two
    return whole if shards == 1 else whole // shards + two


def _copies(parameters: Mapping[str, Tensor], learning: Mapping[str, Tensor], config: TrainConfig) -> int:
    """Bytes of the bf16 copies that autocast makes of float32 matrices and keeps for the backward pass.

    With checkpointing it keeps those of what learns alone.
    """
    if config.memory.precision == "fp32":
        return 0
    kept = learning if recomputes(config) else parameters
    return 2 * count([one for one in kept.values() if one.ndim > 1 and one.dtype == torch.float32])


def _groups(parameters: dict[str, Tensor], trained: set[str]) -> tuple[Group, ...]:
    by_part: dict[str, list[str]] = {}
    for name in parameters:
        by_part.setdefault(part_of(name), []).append(name)
    return tuple(_group(part, names, parameters, trained) for part, names in by_part.items())


def _group(part: str, names: list[str], parameters: dict[str, Tensor], trained: set[str]) -> Group:
    own = [name for name in names if name in trained]
    low = [name for name in own if ".lora_" in name]
    kinds = (("LoRA", low), ("whole", own[len(low) :]))
    return Group(
        part,
        " + ".join(kind for kind, members in kinds if members) or "frozen",
        len(own),
        count([parameters[name] for name in own]),
        count([parameters[name] for name in names if name not in trained]),
    )


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had on the device, or from the machine for a CPU."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return psutil.virtual_memory().available


def savings(plan: Plan) -> list[str]:
    """What would make a run smaller, cheap ways first; only what it does not do yet."""
    config, memory = plan.config, plan.config.memory
    ways = {
        "set memory.checkpointing": not recomputes(config),
        "set memory.precision to bf16": memory.precision == "fp32",
        "raise accumulate": config.batch > config.accumulate * plan.processes,
        "train a LoRA": config.method == "full",
        "set memory.fp8": config.method == "lora" and not memory.fp8,
        "set memory.offload": not memory.offload,
    }
    return [way for way, left in ways.items() if left] or ["take a larger machine"]


# --- writing ---------------------------------------------------------------------------------------------


def size(count_of_bytes: float) -> str:
    """12345678 -> "12.3 MB" """
    return scaled(count_of_bytes, (" B", " kB", " MB", " GB", " TB"))


def amount(value: float) -> str:
    """12345678 -> "12.3 M" """
    return scaled(value, ("", " k", " M", " B"))


def scaled(value: float, units: Sequence[str]) -> str:
    """With three digits and the unit that fits, each a thousand times the one before."""
    for unit in units[:-1]:
        if value < 999.5:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}{units[-1]}"


def drawn_together(names: Sequence[str]) -> list[str]:
    """["blocks.0.a", "blocks.1.a", "b"] -> ["blocks.0-1.a", "b"]"""
    numbers: dict[str, list[int]] = {}
    for name in names:
        found = re.search(r"(?<=blocks\.)\d+", name)
        key = name if found is None else f"{name[: found.start()]}*{name[found.end() :]}"
        numbers.setdefault(key, []).extend([int(found.group())] if found else [])
    return [key.replace("*", runs(found)) for key, found in numbers.items()]


def runs(numbers: Sequence[int]) -> str:
    """[0, 1, 2, 5] -> "0-2,5" """
    found: list[list[int]] = []
    for one in sorted(numbers):
        if found and found[-1][-1] == one - 1:
            found[-1].append(one)
        else:
            found.append([one])
    return ",".join(str(one[0]) if len(one) == 1 else f"{one[0]}-{one[-1]}" for one in found)


def _head(plan: Plan) -> list[str]:
    config = plan.config
    trained, frozen = (sum(getattr(one, key) for one in plan.groups) for key in ("parameters", "frozen"))
    method = f"a LoRA of rank {config.lora.rank}" if config.method == "lora" else "full fine-tuning"
    share = f"{amount(trained)} of {amount(trained + frozen)} parameters"
    return [f"{config.model}: {method}, {share} in {len(plan.trained)} tensors"]


def _table(groups: Sequence[Group]) -> list[str]:
    wide = max(len(one.part) for one in groups)
    lines = [f"{'part':{wide}}  {'trained':12}{'tensors':>8}{'parameters':>12}{'frozen':>10}"]
    for one in groups:
        cells = f"{one.tensors or '':>8}{amount(one.parameters) if one.tensors else '':>12}"
        lines.append(f"{one.part:{wide}}  {one.how:12}{cells}{amount(one.frozen) if one.frozen else '':>10}")
    return [line.rstrip() for line in lines]


def _needs(plan: Plan) -> list[str]:
    memory = {name: value for name, value in asdict(plan.memory).items() if value}
    parts = ", ".join(f"{name} {size(value)}" for name, value in memory.items())
    each = " in each process" if plan.processes > 1 else ""
    keep = plan.config.checkpoints.keep
    return [
        f"memory{each}, estimated: {size(plan.memory.total)} ({parts})",
        f"disk: {size(plan.disk)} (checkpoints of {size(plan.checkpoint)}, {keep} are kept; "
        f"result {size(plan.result)})",
    ]


def _course(plan: Plan) -> list[str]:
    config = plan.config
    seen = config.steps * config.batch
    epochs = f"{seen / plan.clips:.3g} times the data"
    return [
        f"clips: {plan.clips}; the largest has {plan.tokens.video} tokens of picture and "
        f"{plan.tokens.audio} of sound",
        f"steps: {config.steps} of {config.batch} clips, {seen} in all, {epochs}",
    ]


def duration(seconds: float) -> str:
    """4000 -> "1 h 7 min" """
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
