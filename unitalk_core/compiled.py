"""Blocks compiled into few kernels, which on a CUDA device are recorded and replayed for short clips.

Compiling takes a while in the first step of each kind. The attention itself stays as it is.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from .av import AV
from .models.layers import StreamState
from .models.mmdit import after_attention, always, before_attention

RECORDED_UP_TO = 4096  # tokens of a pass; more keep a GPU busy by themselves (not measured)
RECORDED = "reduce-overhead"  # what torch.compile calls CUDA graphs


def compile_blocks(model: nn.Module, backend: Any = "inductor") -> None:
    """Have the blocks of this JointDiT compiled, from now on; its weights have to stay where they are."""
    halves = {"before": before_attention, "after": after_attention}
    compiled = {name: torch.compile(half, backend=backend) for name, half in halves.items()}
    recorded = {name: torch.compile(half, mode=RECORDED) for name, half in halves.items()}

    def run_block(_index: int, block: partial, state: AV[StreamState]) -> AV[StreamState]:
        tokens = [one.tokens for one in state.present()]
        short = sum(one.shape[1] for one in tokens) <= RECORDED_UP_TO
        return block(state, **(recorded if short and tokens[0].is_cuda else compiled))

    always(model, run_block=run_block)
    model.register_forward_pre_hook(lambda *_: torch.compiler.cudagraph_mark_step_begin())


def check_compiler(device: torch.device) -> None:
    """ValueError if nothing can be compiled for a device. Takes a few seconds."""
    try:
        torch.compile(torch.square)(torch.ones(3, device=device))
    except Exception as error:  # a compiler fails in many ways
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"PyTorch cannot compile for {device} here ({reason}); install a C++ compiler, or on a GPU "
            "Triton, or leave out the compiling"
        ) from error
