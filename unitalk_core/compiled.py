"""Blocks compiled into few kernels, which on a CUDA device are recorded and replayed for short clips.

Compiling takes a while in the first step of each kind. The attention itself stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .av import AV
from .models.attention import QKV
from .models.coupling import Joint
from .models.layers import StreamState
from .models.mmdit import RunBlock, after_attention, always, before_attention
from .models.stream import Block

RECORDED_UP_TO = 4096  # tokens of a pass; more keep a GPU busy by themselves (not measured)
RECORDED = "reduce-overhead"  # what torch.compile calls CUDA graphs


def compile_blocks(model: nn.Module, backend: Any = "inductor") -> None:
    """Have the blocks of this JointDiT compiled, from now on; its weights have to stay where they are."""
    halves = (before_attention, after_attention)
    compiled = in_halves(*(torch.compile(half, backend=backend) for half in halves))
    recorded = in_halves(*(torch.compile(half, mode=RECORDED) for half in halves))

    def run_block(index: int, block: partial, state: AV[StreamState]) -> AV[StreamState]:
        tokens = [one.tokens for one in state.present()]
        short = sum(one.shape[1] for one in tokens) <= RECORDED_UP_TO
        run = recorded if short and tokens[0].is_cuda else compiled
        return run(index, block, state)

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


def in_halves(
    before: Callable[..., Any],
    after: Callable[..., Any],
    attend: Callable[[Joint, AV[QKV]], AV[Tensor]] = lambda meeting, qkv: meeting.attend(qkv),
) -> RunBlock:
    """Blocks as `before_attention`, how the streams meet, and `after_attention`, each maybe changed."""

    def run_block(_index: int, block: partial, state: AV[StreamState]) -> AV[StreamState]:
        blocks, meeting = block.args
        state = blocks.map(Block.recall, state)
        mods, qkv = before(blocks, state)
        attended = attend(meeting, qkv)
        del qkv
        others = no_others if type(meeting) is Joint else meeting.others
        return after(blocks, state, mods, attended, others, meeting.attention)

    return run_block


def no_others(_state: AV) -> AV:
    """Joint coupling reads nothing in the cross-attention slot."""
    return AV(None, None)
