"""All that a run needs, loaded and checked before its first step: base, clips, what learns, the plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..data.cache import Cache, cache_for
from ..data.encoders import encoders_of
from ..models.attention import sdpa
from ..models.float8 import hold_in_float8
from ..weights.lora import is_lora
from .alignment import Guide
from .batches import Batches, Clips
from .config import TrainConfig
from .hooks import plain_attention, training_hooks
from .latents import Shards, shard_files
from .memory import checkpointed, offloaded, wait_on_host
from .origin import Base, load_base
from .plan import Plan, make_plan
from .selection import learns_text, select
from .sharding import sharded
from .tasks import TASKS
from .trainee import Trainee

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Setup:
    """Nothing is trained yet. before: values of what is trained whole beside a LoRA."""

    config: TrainConfig
    base: Base
    cache: Clips
    trainee: Trainee
    names: list[str]
    before: dict[str, Tensor]
    plan: Plan

    @property
    def batches(self) -> Batches:
        learns = self.trainee.text_encoder is not None
        return Batches(self.cache, self.config, self.base.config, learns)


def make_accelerator(config: TrainConfig) -> Accelerator:
    """One process or many, as `accelerate launch` says. ValueError if clips do not spread evenly."""
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
    except ImportError as error:
        raise ValueError("training needs the package accelerate; pip install accelerate") from error
    precision = {"fp32": "no", "bf16": "bf16"}[config.memory.precision]
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # a task may leave a stream out
    stays = not config.memory.offload  # else the blocks wait in host memory
    accelerator = Accelerator(
        mixed_precision=precision,
        cpu=not torch.accelerator.is_available(),  # else several processes on CPUs do not see each other
        kwargs_handlers=[unused],
        device_placement=stays,
    )
    if config.memory.offload and accelerator.num_processes > 1:
        raise ValueError("memory.offload is for one process; let accelerate shard the model over several")
    if config.batch % accelerator.num_processes:
        raise ValueError(
            f"batch must be a multiple of the {accelerator.num_processes} processes, got {config.batch}"
        )
    return accelerator


def set_up(config: TrainConfig, data: Path | Clips, accelerator: Accelerator) -> Setup:
    """data: a folder, or clips that are open. ValueError or OSError of one sentence for all that is wrong."""
    base = load_base(config)
    with accelerator.main_process_first():
        cache = clips_for(base, data) if isinstance(data, Path) else data
    check_clips(config, cache)
    trainee = make_trainee(config, base, accelerator.device)
    names = select(trainee, config)
    if config.memory.fp8:
        hold_in_float8(base.model)
    if config.memory.offload:
        wait_on_host(trainee, accelerator.device)
    values = dict(trainee.named_parameters())
    whole = [name for name in names if config.method == "lora" and not is_lora(name)]
    before = {name: values[name].detach().clone() for name in whole}
    device, processes = accelerator.device, accelerator.num_processes
    plan = make_plan(
        trainee, names, config, cache.shapes, device=device, processes=processes, sharded=sharded(accelerator)
    )
    return Setup(config, base, cache, trainee, names, before, plan)


def make_trainee(config: TrainConfig, base: Base, device: torch.device) -> Trainee:
    hooks = training_hooks(config.memory.compile, plain_attention if device.type == "cpu" else sdpa)
    if config.memory.offload:
        hooks = offloaded(hooks, device)
    elif config.memory.checkpointing:
        hooks = checkpointed(hooks)
    guide = Guide(base.config.streams.present()[0].text_len) if config.loss.alignment else None
    return Trainee(base.model, base.text_encoder if learns_text(config, base) else None, hooks, guide)


def clips_for(base: Base, data: Path) -> Clips:
    """The latents of `data`, encoded now where they are not yet. For a model file they must be there."""
    if shard_files(data):
        return Shards.read(data, base.config)
    if base.bundle is not None:
        from tqdm import tqdm

        parts = base.bundle
        encoders = encoders_of(base.config, parts.video_vae, parts.audio_codec, parts.text_encoder)
        with tqdm(desc="encoding", unit="clip", delay=1) as bar:
            return cache_for(data, encoders, on_clip=lambda done, of, _: advance(bar, done, of))
    cache = Cache.open(data)
    if problems := cache.verify():
        raise ValueError(problems[0] + (f" (and {len(problems) - 1} more)" if problems[1:] else ""))
    if cache.index["settings"]["format"] != base.config.to_json()["format"]:
        raise ValueError(f"{data} holds latents of another format than {base.source} makes; prepare it anew")
    return cache


def advance(bar: Any, done: int, of: int) -> None:
    bar.total, bar.n = of, done
    bar.refresh()


def check_clips(config: TrainConfig, cache: Clips) -> None:
    """ValueError for captions that a clip lacks, and for tasks with a picture where a clip has none."""
    pictured = [name for name, share in config.tasks.items() if share and TASKS[name].picture]
    asked = [form for form, share in config.captions.items() if share]
    seen: set[str] = set()
    for i, name in enumerate(cache.names):
        if pictured and not cache.shapes[i][0]:
            raise ValueError(f"{name} has no picture, which the task {pictured[0]} needs; take t2a and tr2a")
        there = cache.forms(i)
        if not set(there) & set(asked):
            raise ValueError(f"{name} has none of the captions {', '.join(asked)}; it has {', '.join(there)}")
        seen.update(there)
    if unknown := [form for form in asked if form not in seen]:
        raise ValueError(f"captions names {unknown[0]}, which no clip has; take {', '.join(sorted(seen))}")
