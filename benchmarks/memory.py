"""How much memory and disk do full-size runs take? The planner's estimates, as in docs/training.md.

python benchmarks/memory.py

Nothing is loaded: the model is built on the meta device, and counted as `train --plan` does. A clip has 121
frames of 704 x 704 pixels and its sound. Not measured on such devices.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from unitalk_core.config import UNITALK
from unitalk_core.models.float8 import hold_in_float8
from unitalk_core.models.mmdit import JointDiT
from unitalk_core.training.config import read_config
from unitalk_core.training.plan import Plan, make_plan, size
from unitalk_core.training.selection import select

CLIP = (31, 44, 44, 217)  # latent frames, rows, columns, audio latents
CUDA = torch.device("cuda")


class Run(NamedTuple):
    """A row of the table. devices: over which everything is spread, if more than one (FSDP)."""

    preset: str
    changes: tuple[str, ...] = ()
    devices: int = 1


RUNS = (
    Run("character-lora"),
    Run("character-lora", ("memory.fp8=false",)),
    Run("character-lora", ("memory.offload=true", "memory.fp8=false")),
    Run("wan-stage1", (), 8),
    Run("wan-stage2", (), 8),
    Run("wan-stage2", ("accumulate=4",), 16),
)


def main() -> None:
    print("| run | devices | memory each | weights | gradients, optimiser | activations | a checkpoint |")
    print("|---|---|---|---|---|---|---|")
    for run in RUNS:
        plan = plan_of(run)
        memory = plan.memory
        cells = [
            " ".join((run.preset, *(f"`{change}`" for change in run.changes))),
            str(run.devices),
            size(memory.total),
            size(memory.weights),
            size(memory.gradients + memory.optimizer + memory.ema),
            size(memory.activations),
            size(plan.checkpoint),
        ]
        print("| " + " | ".join(cells) + " |")


def plan_of(run: Run) -> Plan:
    config = read_config(run.preset, run.changes)
    with torch.device("meta"):
        model = JointDiT(UNITALK)
    if config.method == "lora":
        model.to(torch.bfloat16)  # as it lies in its file
    names = select(model, config)
    if config.memory.fp8:
        hold_in_float8(model)
    spread = {"processes": run.devices, "sharded": run.devices > 1}
    return make_plan(model, names, config, [CLIP], device=CUDA, **spread)


if __name__ == "__main__":
    main()
