"""Run in each of several processes by test_sharding.py: train a few steps together, and alone to compare.

Arguments: a folder for what is found, then kinds of training. The launcher's environment says whether the
processes shard or replicate.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from unitalk_core.av import AV
from unitalk_core.config import TINY
from unitalk_core.models.float8 import hold_in_float8
from unitalk_core.models.mmdit import PLAIN, Hooks, JointDiT, initialise
from unitalk_core.models.text_encoder import PhonemeConfig, PhonemeEncoder
from unitalk_core.training.batches import Drawn
from unitalk_core.training.memory import checkpointed
from unitalk_core.training.objective import Batch
from unitalk_core.training.sharding import gathered, load_sharded, save_sharded, sharded, spread
from unitalk_core.training.trainee import Trainee
from unitalk_core.weights.lora import add_lora, is_lora

STEPS, CLIPS, DEPTH = 3, 4, 3


def trainee_for(kind: str) -> Trainee:
    """kind: "full", "bf16", "lora", "float8" (LoRA, checkpointed), "text" (learns along), "alternating"."""
    size = {"width": 48, "heads": 2, "depth": DEPTH, "ffn_width": 64, "text_dim": 32, "text_len": 16}
    torch.manual_seed(0)
    model = JointDiT(replace(TINY, streams=TINY.streams.map(lambda stream: replace(stream, **size))))
    initialise(model, 0)
    for stream in model.streams.present():
        nn.init.normal_(stream.head.head.weight, std=0.02)
    if kind == "text":
        return Trainee(model, PhonemeEncoder(PhonemeConfig(dim=32, text_len=16, depth=1)))
    if kind not in ("lora", "float8"):
        return Trainee(model)
    layers = [
        name for name, one in model.named_modules() if isinstance(one, nn.Linear) and ".blocks." in name
    ]
    add_lora(model, layers, rank=4, alpha=4.0, seed=0)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_lora(name))
        if "lora_up" in name:
            nn.init.normal_(parameter, std=0.02)
    if kind == "float8":
        hold_in_float8(model)
    return Trainee(model, hooks=checkpointed(PLAIN) if kind == "float8" else PLAIN)


def drawn(kind: str, step: int, places: range) -> Drawn:
    """Each place of each step has noise of its own, whoever draws it."""

    def randn(*shape: int) -> Tensor:
        return torch.stack([torch.randn(shape, generator=one) for one in chances])

    chances = [torch.Generator().manual_seed(1000 * step + place) for place in places]
    count, picture = len(places), kind != "alternating" or step % 2 == 0
    video, audio, context = randn(48, 2, 4, 4), randn(20, 6), randn(16, 32)
    ids, sigma = torch.tensor(places)[:, None] + torch.arange(16), randn().sigmoid()
    batch = Batch(
        latent=AV(video if picture else None, audio),
        denoise_mask=AV(torch.ones(count, 1, 2, 1, 1) if picture else None, torch.ones(count, 1, 6)),
        context=ids if kind == "text" else context,
        reference=randn(5, 20),
    )
    noise = AV(randn(48, 2, 4, 4) if picture else None, randn(20, 6))
    learns = ("video", "audio") if picture else ("audio",)
    return Drawn(batch, AV(sigma, sigma), noise, torch.full((count, 6), -1), [""] * count, learns)


def steps_of(
    kind: str, trainee: nn.Module, places: range, mean: Callable[[Tensor], Tensor]
) -> tuple[list[tuple[float, float]], torch.optim.Optimizer]:
    """(loss, norm of the gradient) of each step."""
    learning = [one for one in trainee.parameters() if one.requires_grad]
    optimizer, found = torch.optim.AdamW(learning, lr=1e-2), []
    for step in range(STEPS):
        losses = trainee(drawn(kind, step, places))
        loss = sum(one.sum() for one in losses.values()) / len(places)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(learning, 1.0)
        found.append((mean(loss.detach()).item(), float(norm)))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return found, optimizer


def compare(kind: str, accelerator: Accelerator, out: Path) -> None:
    """Write `kind`.json and the weights of both ways."""
    alone, own = trainee_for(kind), trainee_for(kind)
    together = spread(own, accelerator, "bf16" if kind == "bf16" else "fp32")
    looked = torch.dist(velocity(own.model), velocity(alone.model)).item()  # before the first step
    expected, _ = steps_of(kind, alone, range(CLIPS), lambda loss: loss)
    size, rank = CLIPS // accelerator.num_processes, accelerator.process_index
    places = range(rank * size, (rank + 1) * size)
    found, optimizer = steps_of(kind, together, places, lambda loss: accelerator.reduce(loss, "mean"))
    looked = max(looked, torch.dist(velocity(own.model), velocity(alone.model)).item())
    weights = gathered({name: one for name, one in own.named_parameters() if one.element_size() > 1})
    report = {"one": expected, "many": found, "kind": type(together).__name__, "looked": looked}
    if sharded(accelerator):
        tensors = everything(own, optimizer)
        accelerator.wait_for_everyone()
        save_sharded(tensors, out / f"{kind}-shards")
        report["resumed"] = resumed(tensors, out / f"{kind}-shards")
    if accelerator.is_main_process:
        save_file({name: one.detach() for name, one in weights.items()}, out / f"{kind}-many.safetensors")
        own = {name: one.detach() for name, one in alone.named_parameters() if name in weights}
        save_file(own, out / f"{kind}-one.safetensors")
        (out / f"{kind}.json").write_text(json.dumps(report))


@torch.no_grad()
def velocity(model: nn.Module) -> Tensor:
    """Of the sound, when the model is called by itself, as sampling does."""
    one = drawn("full", 0, range(1))
    context = one.noise.map(lambda _: one.batch.context)
    return model(one.noise, AV(torch.tensor([500.0]), torch.tensor([500.0])), context).audio


def everything(trainee: Trainee, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What learns, and its moments."""
    tensors = {}
    for name, one in trainee.named_parameters():
        if one.requires_grad:
            tensors[name] = one.detach()
            tensors |= {f"{key}.{name}": value for key, value in optimizer.state[one].items()}
    return tensors


def resumed(tensors: dict[str, Tensor], folder: Path) -> bool:
    """Whether every tensor is bit for bit what it was, after it was lost and loaded."""
    before = {name: local(one).clone() for name, one in tensors.items()}
    for one in tensors.values():
        local(one).fill_(7)
    load_sharded(tensors, folder)
    return all(torch.equal(local(one), before[name]) for name, one in tensors.items())


def local(one: Tensor) -> Tensor:
    return one.to_local() if isinstance(one, DTensor) else one


def watch_units(accelerator: Accelerator, out: Path) -> None:
    """Write how many blocks of each stream are whole whenever one runs, forward and again backward."""
    seen: list[list[int]] = []
    own = trainee_for("full")

    def run_block(index: int, block: partial, state: AV) -> AV:
        whole = [
            [i for i, one in enumerate(stream.blocks) if not isinstance(one.ffn[0].weight, DTensor)]
            for stream in own.model.streams.present()
        ]
        seen.append([index, *whole])
        return block(state)

    own.hooks = checkpointed(Hooks(run_block=run_block))
    steps_of("full", spread(own, accelerator, "fp32"), range(2), lambda loss: loss)
    if accelerator.is_main_process:
        (out / "units.json").write_text(json.dumps(seen[: 2 * DEPTH]))


def reshard(out: Path) -> None:
    """Load into shards what one process has written, and write it whole."""
    mesh = init_device_mesh("cpu", (2,))
    with safe_open(next((out / "written").glob("*.safetensors")), "pt") as file:
        like = {name: torch.zeros_like(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 not a dict
    shards = {
        name: distribute_tensor(one, mesh, [Shard(0)]) if one.ndim else one for name, one in like.items()
    }
    load_sharded(shards, out / "written")
    whole = gathered(shards)
    if whole:
        save_file(whole, out / "resharded.safetensors")


def main(out: Path, kinds: list[str]) -> None:
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(cpu=True, kwargs_handlers=[unused])
    for kind in kinds:
        if kind == "units":
            watch_units(accelerator, out)
        elif kind == "reshard":
            reshard(out)
        else:
            compare(kind, accelerator, out)
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
    os._exit(0)  # gloo's threads may abort an interpreter that winds down; all files are written
