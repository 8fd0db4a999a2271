"""How much memory a step and the decoding take: each is run on the meta device, at full size, and counted.

No number is computed and no formula kept: what the code makes and lets go is what is counted. Attention is
taken to need no more than its result, as every fused kernel does; buffers of a library are not seen.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, UntypedStorage, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .av import AV
from .config import ModelConfig, StreamConfig
from .diffusion.passes import MOST
from .models.float8 import Float8, expect_float8
from .models.layers import Timesteps
from .models.mmdit import PLAIN, Hooks, JointDiT
from .models.video_vae import VideoVAE, VideoVAEConfig

SHORT = 300  # tokens of a pass up to which a batch pays on a CPU (benchmarks/passes.py)
SLACK = 1.25  # times what is counted: buffers of kernels (benchmarks/memory_table.py --check)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are made on a device while it is on, as long as they are there."""

    def __init__(self, device: str = "meta") -> None:
        super().__init__()
        self.device = device
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for given in tensors_in((args, kwargs)):
            self._know(given.untyped_storage(), 0)
        made = func(*args, **(kwargs or {}))
        for one in tensors_in(made):
            storage = one.untyped_storage()
            self._know(storage, storage.nbytes() if one.device.type == self.device else 0)
        return made

    def _know(self, storage: UntypedStorage, size: int) -> None:
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, storage._cdata, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def tensors_in(tree: Any) -> list[Tensor]:
    return [one for one in tree_leaves(tree) if isinstance(one, Tensor)]


def weight_bytes(module: nn.Module) -> int:
    return sum(one.numel() * one.element_size() for one in module.parameters())


def transformer_bytes(config: ModelConfig, dtype: torch.dtype, float8: Float8 | None = None) -> int:
    """Of all weights of a transformer. float8: with the matrices of its blocks in a byte each."""
    with torch.device("meta"):
        model = JointDiT(config).to(dtype)
        return weight_bytes(model if float8 is None else expect_float8(model, float8))


@torch.no_grad()
def step_bytes(
    config: ModelConfig,
    latents: AV[tuple[int, ...] | None],
    dtype: torch.dtype,
    kept: bool = False,
    device: str | torch.device = "meta",
) -> int:
    """At most beside the weights, in one pass through a transformer, of latents of these shapes.

    kept: a part of the picture stays, so that its tokens have another timestep and each its own modulation.
    All blocks are alike, so two of them tell. A window of the coupling would only make it less.
    """
    streams = config.streams.map(lambda one: replace(one, depth=min(2, one.depth)))
    with torch.device(device):
        model = JointDiT(replace(config, streams=streams, couple_window=None)).to(dtype)
        latent = latents.map(lambda shape: torch.zeros(shape, dtype=dtype))
        batch = len(latent.present()[0])
        stream = config.streams.present()[0]
        text = torch.zeros(batch, stream.text_len, stream.text_dim, dtype=dtype)
        times = latent.map(lambda _: torch.full((batch,), 500.0))
        if kept:
            times = replace(times, video=two_timesteps(latent.video))
        with LiveBytes(torch.device(device).type) as live:
            hooks = Hooks(attention=fused) if latent.present()[0].is_meta else PLAIN
            context = latent.map(lambda _: text)
            model(latent, times, context, hooks=hooks)
    return live.peak


def two_timesteps(latent: Tensor) -> Timesteps:
    """Of the tokens of a picture whose first frame stays."""
    batch, _, frames, rows, columns = latent.shape
    index = latent.new_ones(batch, frames * (rows // 2) * (columns // 2), dtype=torch.long)
    return Timesteps(latent.new_tensor([0.0, 500.0], dtype=torch.float32), index)


counted = cache(step_bytes)  # the same for every clip of a shape


def at_once(
    mode: str,
    config: ModelConfig,
    shape: AV[tuple[int, ...] | None],
    device: torch.device,
    dtype: torch.dtype,
) -> int:
    """How many passes may share a batch on a device. shape: of the latents; dtype: of the weights.

    "auto": as many as there is room for on a CUDA device, were a part of the picture to stay (counted, not
    measured there); elsewhere all where a pass is short, which reads the weights for longer than it computes,
    else one.
    """
    if mode != "auto":
        return MOST if mode == "batched" else 1
    if device.type != "cuda":
        return MOST if token_count(config, shape) <= SHORT else 1
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + held
    step = counted(config, shape, dtype, kept=shape.video is not None)
    return max(1, min(MOST, int(free // (SLACK * step))))


def token_count(config: ModelConfig, shape: AV[tuple[int, ...] | None]) -> int:
    """Of both streams, for one clip."""

    def of(size: tuple[int, ...], stream: StreamConfig) -> int:
        return math.prod(size[2:]) // math.prod(stream.patch)

    return sum(shape.map(of, config.streams).present())


@torch.no_grad()
def decode_bytes(
    config: VideoVAEConfig,
    size: tuple[int, int],
    dtype: torch.dtype,
    frames: int = 13,
    device: str | torch.device = "meta",
) -> int:
    """At most beside the weights and the frames, while a clip of this size is decoded in parts."""
    columns, rows = (side // config.pixel_stride for side in size)
    with torch.device(device):
        vae = VideoVAE(config).to(dtype)
        count = 1 + (frames - 1) // config.frame_stride
        latent = torch.zeros(1, config.latent_channels, count, rows, columns, dtype=dtype)
        with LiveBytes(torch.device(device).type) as live:
            for _ in vae.decode_chunks(latent):
                pass
    return live.peak


def fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:  # noqa: ARG001 - as `Attention`
    """Attention that makes its result alone."""
    return torch.empty_like(q)
