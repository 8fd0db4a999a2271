"""What is traded for memory: blocks computed twice, frozen weights in eight bits, blocks that wait.

`checkpointed` and `offloaded` go around the `run_block` of any hooks; `hold_in_float8` changes layers.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ..av import AV
from ..models.mmdit import Hooks, JointDiT
from ..models.stream import Block
from ..offload import with_weights

FLOAT8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FLOAT8).max  # 448


def checkpointed(hooks: Hooks) -> Hooks:
    """`hooks`, with each block computed again in the backward pass instead of kept."""
    inner = hooks.run_block or _plainly

    def run_block(index: int, block: partial, state: AV) -> AV:
        return checkpoint(inner, index, block, state, use_reentrant=False, preserve_rng_state=False)

    return replace(hooks, run_block=run_block)


def offloaded(hooks: Hooks, device: torch.device) -> Hooks:
    """`hooks`, with the weights of a block on `device` only while it runs; `wait_on_host` puts them away.

    The blocks are checkpointed too: otherwise autograd would keep the copies. Gradients arrive where the
    weights wait.
    """
    inner = hooks.run_block or _plainly

    def run_block(index: int, block: partial, state: AV) -> AV:
        run = partial(inner, index, block)
        for one in block.args[0].present():
            run = partial(_with_copies, one, device, run)
        return run(state)

    return checkpointed(replace(hooks, run_block=run_block))


def wait_on_host(module: nn.Module, device: torch.device) -> None:
    """Bring everything to `device` but the blocks, whose weights wait in host memory for `offloaded`."""
    if isinstance(module, Block):
        for one in chain(module.parameters(), module.buffers()) if device.type == "cuda" else ():
            one.data = one.data.cpu().pin_memory()  # only page-locked memory is copied beside the computation
    elif any(isinstance(one, Block) for one in module.modules()):
        for child in module.children():
            wait_on_host(child, device)
    else:
        module.to(device)


def hold_in_float8(model: JointDiT) -> None:
    """Hold the frozen linear layers of all blocks in float8, in place: their children and hooks stay."""
    for stream in model.streams.present():
        for layer in stream.blocks.modules():
            if type(layer) is nn.Linear and not layer.weight.requires_grad:
                Float8Linear.take_over(layer)


class Float8Linear(nn.Linear):
    """A frozen linear layer: `weight` in float8, `weight_scale` (rows,) in float32.

    Under these names `weights.quantised.dequantise` reads its state dict. The scale is a power of two, so
    that scaling is exact in every dtype. Nothing in full precision outlives the forward or the backward call.
    """

    weight_scale: Tensor

    @classmethod
    @torch.no_grad()
    def take_over(cls, layer: nn.Linear) -> None:
        weight = layer.weight.float()
        largest = weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny)
        scale = (largest / LARGEST).log2().ceil().exp2()
        layer.__class__ = cls
        layer.register_buffer("weight_scale", scale)
        layer.weight = nn.Parameter((weight / scale[:, None]).to(FLOAT8), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        out = _Product.apply(x, self.weight, self.weight_scale)
        return out if self.bias is None else out + self.bias.to(out.dtype)


class _Product(torch.autograd.Function):
    """x (..., i), weight (o, i), scale (o,) -> (..., o). Only x has a gradient."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        return functional.linear(x, weight.to(x.dtype)) * scale.to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG004 - torch's signature
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        weight, scale = ctx.saved_tensors
        return (grad * scale.to(grad.dtype)) @ weight.to(grad.dtype), None, None


def _plainly(_index: int, block: partial, state: AV) -> AV:
    return block(state)


def _with_copies(block: Block, device: torch.device, run: Any, state: AV) -> AV:
    named = chain(block.named_parameters(), block.named_buffers())
    copies = {name: one.to(device, non_blocking=True, copy=True) for name, one in named}
    return with_weights(block, copies, run, state)
