"""What is traded for memory: blocks computed twice, and blocks that wait (`models.float8` is the third).

`checkpointed` and `offloaded` go around the `run_block` of any hooks.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..av import AV
from ..models.mmdit import Hooks
from ..models.stream import Block
from ..offload import with_weights


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


def _plainly(_index: int, block: partial, state: AV) -> AV:
    return block(state)


def _with_copies(block: Block, device: torch.device, run: Any, state: AV) -> AV:
    named = chain(block.named_parameters(), block.named_buffers())
    copies = {name: one.to(device, non_blocking=True, copy=True) for name, one in named}
    return with_weights(block, copies, run, state)
