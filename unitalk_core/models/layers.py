"""The layers of one Wan2.2 block, built from an `ops` namespace (torch.nn, or the host's own).

b batch · n tokens · d width · k distinct timesteps
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..config import StreamConfig
from .attention import QKV, Attention, Bands, merge_heads, split_heads
from .rope import rotate
from .text import Kept


@dataclass(frozen=True)
class Modulation:
    """Shift and scale before a layer, gate after it; each (k, d), for `StreamState.spread`."""

    shift: Tensor
    scale: Tensor
    gate: Tensor


@dataclass(frozen=True)
class Timesteps:
    """The distinct timesteps of a stream (0..1000) and which one each token has.

    values: (k,); index: (b, n) into values, or None when sample i has the single timestep values[i] (k == b).
    """

    values: Tensor
    index: Tensor | None = None

    @classmethod
    def of(cls, timestep: Tensor | Timesteps, batch: int, tokens: int) -> Timesteps:
        """From (b,) or (1,), one a sample, or (b, n), one a token; ValueError for any other shape."""
        if isinstance(timestep, Timesteps):
            return timestep
        if timestep.ndim == 1 and len(timestep) in (1, batch):
            return cls(timestep.expand(batch))
        if timestep.shape != (batch, tokens):
            shape = tuple(timestep.shape)
            raise ValueError(f"timestep must be ({batch},) or ({batch}, {tokens}), got {shape}")
        return cls(*torch.unique(timestep, return_inverse=True))


@dataclass(frozen=True)
class StreamState:
    """One stream on its way through the blocks. Modulation is held per distinct timestep, never per token."""

    tokens: Tensor  # (b, n, d)
    time: Tensor  # (k, d) time embedding, for the head
    modulation: Tensor  # (k, 6, d)
    index: Tensor | None  # (b, n) token -> distinct timestep; None: one timestep a sample, k == b
    turn: Tensor  # (2, n, head_dim / 2) rotary cosines and sines
    text: Tensor  # (b, text_len, d)
    reference: Tensor | None  # (b, reference_len, d), or several voices one behind the other
    hearing: Bands | None  # which tokens hear which of them; None: all hear all
    key_mask: Tensor | None  # (b, 1, 1, n)
    dtype: torch.dtype  # of the linear layers; the residual itself is kept in float32
    kept: Kept | None = None  # what was made of the text in an earlier step
    read: tuple[Tensor, Tensor] | None = None  # its keys and values in this block, if they are kept

    def spread(self, values: Tensor) -> Tensor:
        """(k, d) per distinct timestep -> what broadcasts over (b, n, d)."""
        return values[:, None] if self.index is None else values[self.index]


def modulated_norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """(1 + scale) * norm(x) + shift in float32. x: (b, n, d); scale, shift: what `spread` returns."""
    x, width = x.float(), x.shape[-1:]
    if scale.numel() == width.numel():  # all tokens share a timestep: one pass over them
        return functional.layer_norm(x, width, 1 + scale.flatten(), shift.flatten(), eps)
    return torch.addcmul(shift, functional.layer_norm(x, width, eps=eps), 1 + scale)


class GELU(nn.GELU):
    """Where no gradient needs its input, in its place: the widest tensor of a block is there once."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return super().forward(x)
        return torch.ops.aten.gelu_(x, approximate=self.approximate)


class FeedForward(nn.Sequential):
    """Linear, GELU, linear; in bfloat16 on a CPU the first two are one product, which rounds once."""

    def __init__(self, width: int, hidden: int, ops: Any) -> None:
        super().__init__(ops.Linear(width, hidden), GELU(approximate="tanh"), ops.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        wide, _, narrow = self
        if not _fuses(wide, x):
            return super().forward(x)
        return narrow(torch.ops.mkldnn._linear_pointwise(x, wide.weight, wide.bias, "gelu", [], "tanh"))


def _fuses(linear: nn.Module, x: Tensor) -> bool:
    """Whether the product that torch.compile makes of both on a CPU can be called: it has no gradient, and is
    no gain in float32. A host's own layers have their weights elsewhere."""
    if x.dtype != torch.bfloat16 or x.device.type != "cpu" or type(linear) is not nn.Linear:
        return False
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    known = hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return known and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def turned_norm(norm: nn.RMSNorm, x: Tensor, heads: int, turn: Tensor) -> Tensor:
    """(b, n, d) -> (b, h, n, d / h), normalised and rotated. turn: (2, n, d / 2h).

    What a token is divided by can as well divide its turn, which is a third of the passes over memory. On a
    GPU the norm is one kernel anyhow, and a host's own layers have their weights elsewhere.
    """
    if x.device.type != "cpu" or type(norm) is not nn.RMSNorm:
        return rotate(split_heads(norm(x), heads), turn)
    wide = x.float()
    length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    shrink = (length.square() / x.shape[-1] + norm.eps).rsqrt()
    turn = turn[:, None, None] * shrink[:, None]
    return rotate(split_heads(wide * norm.weight.float(), heads), turn).to(x.dtype)


class SelfAttention(nn.Module):
    """q, k, v with full-width RMSNorm before the head split, and the output projection."""

    def __init__(self, config: StreamConfig, ops: Any) -> None:
        super().__init__()
        self.heads, width = config.heads, config.width
        self.q, self.k, self.v, self.o = (ops.Linear(width, width) for _ in range(4))
        self.norm_q, self.norm_k = (ops.RMSNorm(width, eps=config.eps) for _ in range(2))

    def qkv(self, x: Tensor, turn: Tensor, key_mask: Tensor | None) -> QKV:
        """(b, n, d) -> rotated queries and keys, plain values."""
        q = turned_norm(self.norm_q, self.q(x), self.heads, turn)
        k = turned_norm(self.norm_k, self.k(x), self.heads, turn)
        return QKV(q, k, split_heads(self.v(x), self.heads), key_mask)


class CrossAttention(nn.Module):
    """One query; attentions to text, reference voice and (Ovi) the other stream are summed before `o`."""

    def __init__(self, config: StreamConfig, fusion: bool, ops: Any) -> None:
        super().__init__()
        self.heads, width = config.heads, config.width
        self.q, self.k, self.v, self.o = (ops.Linear(width, width) for _ in range(4))
        self.norm_q, self.norm_k = (ops.RMSNorm(width, eps=config.eps) for _ in range(2))
        if config.reference != "none":
            self.k_ref, self.v_ref = (ops.Linear(width, width) for _ in range(2))
            self.norm_k_ref = ops.RMSNorm(width, eps=config.eps)
        if fusion:
            self.k_fusion, self.v_fusion = (ops.Linear(width, width) for _ in range(2))
            self.pre_attn_norm_fusion = ops.LayerNorm(width, eps=config.eps)
            self.norm_k_fusion = ops.RMSNorm(width, eps=config.eps)

    def forward(self, x: Tensor, own: StreamState, other: StreamState | None, attention: Attention) -> Tensor:
        """x: (b, n, d), normalised tokens of `own`; `other`: the stream to fuse with, or None."""
        q = split_heads(self.norm_q(self.q(x)), self.heads)
        out = self._attend(q, *(own.read or self.read(own.text)), attention)
        if own.reference is not None:
            k, v = self.norm_k_ref(self.k_ref(own.reference)), self.v_ref(own.reference)
            out = out + self._hear(q, k, v, own.hearing, attention)
        if other is not None:
            out = out + self._fuse(q, own, other, attention)
        return self.o(merge_heads(out))

    def read(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the text, (b, text_len, d) each."""
        return self.norm_k(self.k(text)), self.v(text)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, attention: Attention) -> Tensor:
        return attention(q, split_heads(k, self.heads), split_heads(v, self.heads), None)

    def _hear(self, q: Tensor, k: Tensor, v: Tensor, hearing: Bands | None, attention: Attention) -> Tensor:
        if hearing is None:
            return self._attend(q, k, v, attention)
        heard = [self._attend(q[:, :, own], k[:, keys], v[:, keys], attention) for own, keys in hearing]
        return torch.cat(heard, dim=2)

    def _fuse(self, q: Tensor, own: StreamState, other: StreamState, attention: Attention) -> Tensor:
        seen = self.pre_attn_norm_fusion(other.tokens.to(own.dtype))
        k = rotate(split_heads(self.norm_k_fusion(self.k_fusion(seen)), self.heads), other.turn)
        v = split_heads(self.v_fusion(seen), self.heads)
        return attention(rotate(q, own.turn), k, v, other.key_mask)


class GatedConv(nn.Module):
    """Ovi's audio input MLP: w2(silu(w1 x) * w3 x), each a convolution over 7 tokens without bias."""

    KERNEL = 7

    def __init__(self, width: int, ops: Any) -> None:
        super().__init__()
        hidden = 256 * -(-(2 * 4 * width // 3) // 256)
        near = {"kernel_size": self.KERNEL, "padding": self.KERNEL // 2, "bias": False}
        self.w1, self.w3 = (ops.Conv1d(width, hidden, **near) for _ in range(2))
        self.w2 = ops.Conv1d(hidden, width, **near)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(functional.silu(self.w1(x)) * self.w3(x))


class Head(nn.Module):
    """Modulated norm and projection to one patch per token."""

    def __init__(self, config: StreamConfig, ops: Any) -> None:
        super().__init__()
        pixels = config.patch[0] * config.patch[1] * config.patch[2]
        self.eps = config.eps
        self.modulation = nn.Parameter(torch.empty(1, 2, config.width))
        self.head = ops.Linear(config.width, pixels * config.out_channels)

    def forward(self, state: StreamState) -> Tensor:
        """(b, n, d) -> (b, n, patch * channels), channel fastest."""
        table = self.modulation.to(state.time.device, torch.float32)
        shift, scale = (state.spread(one) for one in (table + state.time[:, None].float()).unbind(1))
        return self.head(modulated_norm(state.tokens, scale, shift, self.eps).to(state.dtype))
