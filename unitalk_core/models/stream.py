"""One tower of the Wan2.2 trunk: embeddings, blocks, head. Picture and sound are the same class.

b batch · c channels · f latent frames · h, w latent rows, columns · n tokens · d width
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from ..config import StreamConfig
from .attention import QKV, Attention, Bands, merge_heads
from .layers import (
    GELU,
    CrossAttention,
    FeedForward,
    GatedConv,
    Head,
    Modulation,
    SelfAttention,
    StreamState,
    Timesteps,
    modulated_norm,
)
from .rope import grid_positions, rope_angles, rotation, sinusoid, time_positions
from .text import Kept, Text, once
from .voices import Voices, runs

KEPT_UP_TO = 4  # tokens for each one of the text; there keeping saves 3 % of a step


class Block(nn.Module):
    """adaLN, self-attention, cross-attention, FFN. The attention itself is called by the joint model."""

    def __init__(self, config: StreamConfig, fusion: bool, ops: Any) -> None:
        super().__init__()
        self.eps = config.eps
        self.modulation = nn.Parameter(torch.empty(1, 6, config.width))
        self.self_attn = SelfAttention(config, ops)
        self.norm3 = ops.LayerNorm(config.width, eps=config.eps)
        self.cross_attn = CrossAttention(config, fusion, ops)
        self.ffn = FeedForward(config.width, config.ffn_width, ops)

    def forward(self, run: Callable[[Any], Any], state: Any) -> Any:
        """`run(state)`, which calls the methods below for this block and for the other stream's.

        Whatever is hooked to a module's call, such as sharding, so holds while the block runs.
        """
        return run(state)

    def recall(self, state: StreamState) -> StreamState:
        """With the keys and values of the text, where they are kept; a compiled block finds them there."""
        if state.kept is None:
            return state
        return replace(state, read=once(state.kept, self, partial(self.cross_attn.read, state.text)))

    def modulations(self, state: StreamState) -> tuple[Modulation, Modulation]:
        """For self-attention and for the FFN, summed per distinct timestep in float32."""
        table = self.modulation.to(state.modulation.device, torch.float32) + state.modulation.float()
        parts = table.unbind(1)
        return Modulation(*parts[:3]), Modulation(*parts[3:])

    def qkv(self, state: StreamState, mods: tuple[Modulation, Modulation]) -> QKV:
        x = self._modulated(state, mods[0])
        return self.self_attn.qkv(x, state.turn, state.key_mask)

    def add_attention(
        self, state: StreamState, mods: tuple[Modulation, Modulation], attended: Tensor
    ) -> StreamState:
        out = self.self_attn.o(merge_heads(attended))
        return replace(state, tokens=torch.addcmul(state.tokens, state.spread(mods[0].gate), out))

    def add_conditions(
        self, state: StreamState, other: StreamState | None, attention: Attention
    ) -> StreamState:
        """Cross-attention has no gate and no modulation."""
        x = self.norm3(state.tokens.to(state.dtype))
        return replace(state, tokens=state.tokens + self.cross_attn(x, state, other, attention))

    def feed_forward(self, state: StreamState, mods: tuple[Modulation, Modulation]) -> StreamState:
        out = self.ffn(self._modulated(state, mods[1]))
        return replace(state, tokens=torch.addcmul(state.tokens, state.spread(mods[1].gate), out))

    def _modulated(self, state: StreamState, mod: Modulation) -> Tensor:
        scale, shift = state.spread(mod.scale), state.spread(mod.shift)
        return modulated_norm(state.tokens, scale, shift, self.eps).to(state.dtype)


class Stream(nn.Module):
    """Latent -> tokens -> blocks -> velocity of one modality. Key names: Wan2.2 wan/modules/model.py."""

    def __init__(self, config: StreamConfig, fusion: bool = False, ops: Any = nn) -> None:
        super().__init__()
        self.config, width = config, config.width
        self.patch_embedding = _input_layer(config, ops)
        self.text_embedding = nn.Sequential(
            ops.Linear(config.text_dim, width), GELU(approximate="tanh"), ops.Linear(width, width)
        )
        self.time_embedding = nn.Sequential(
            ops.Linear(config.freq_dim, width), nn.SiLU(), ops.Linear(width, width)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), ops.Linear(width, 6 * width))
        if config.reference != "none":
            self.reference_embedding = _reference_layer(config, ops)
        self.blocks = nn.ModuleList(Block(config, fusion, ops) for _ in range(config.depth))
        self.head = Head(config, ops)

    def embed(
        self,
        latent: Tensor,
        timestep: Tensor | Timesteps,
        context: Tensor | Text,
        reference: Tensor | Voices | None = None,
        length: Tensor | None = None,
    ) -> StreamState:
        """latent: (b, c, f, h, w) or (b, c, n); timestep: (b,) or (b, tokens); context: (b, len, text_dim);
        reference: (b, len, reference_dim), several, or None; length: (b,) valid latent frames or audio
        latents."""
        tokens = self._tokens(latent, length)
        voices, hearing = self._reference(reference, tokens, latent)
        features, kept = self._kept(context, tokens.shape[1])
        steps = Timesteps.of(timestep, *tokens.shape[:2])
        time = self.time_embedding(sinusoid(steps.values, self.config.freq_dim).to(tokens.dtype))
        return StreamState(
            tokens=tokens,
            time=time,
            modulation=self.time_projection(time).unflatten(1, (6, -1)),
            index=steps.index,
            turn=self._turn(latent),
            text=once(kept, self, partial(self._text, features)),
            reference=voices,
            hearing=hearing,
            key_mask=_key_mask(length, tokens.shape[1], latent.shape[2]),
            dtype=tokens.dtype,
            kept=kept,
        )

    def unembed(self, state: StreamState, like: Tensor) -> Tensor:
        """Velocity in the shape of the latent `like`."""
        patches = self.head(state)
        if like.ndim == 3:
            return rearrange(patches, "b n c -> b c n")
        frames, rows, columns = self.grid(like)
        t, p, q = self.config.patch
        sizes = {"f": frames, "h": rows, "w": columns, "t": t, "p": p, "q": q}
        return rearrange(patches, "b (f h w) (t p q c) -> b c (f t) (h p) (w q)", **sizes)

    def grid(self, latent: Tensor) -> tuple[int, int, int]:
        """Tokens along (time, rows, columns); ValueError if the latent does not split into patches."""
        sizes = (*latent.shape[2:], 1, 1)[:3]
        if any(size % patch for size, patch in zip(sizes, self.config.patch, strict=True)):
            raise ValueError(f"latent {tuple(sizes)} does not split into patches of {self.config.patch}")
        return tuple(size // patch for size, patch in zip(sizes, self.config.patch, strict=True))

    def times(self, latent: Tensor) -> Tensor:
        """Position on the shared clock of each step in time, in latent frames."""
        count = self.grid(latent)[0]
        return torch.arange(count, dtype=torch.float64) * self.config.rope_scale

    def _tokens(self, latent: Tensor, length: Tensor | None = None) -> Tensor:
        if latent.shape[1] != self.config.in_channels:
            raise ValueError(
                f"latent has {latent.shape[1]} channels, this stream takes {self.config.in_channels}"
            )
        self.grid(latent)
        if self.config.input == "linear":
            return self.patch_embedding(latent.transpose(1, 2))
        if self.config.input == "conv" and length is not None:
            return _unpadded(self.patch_embedding, latent, length.tolist())
        return self.patch_embedding(latent).flatten(2).transpose(1, 2).contiguous()

    def _text(self, features: Tensor) -> Tensor:
        return self.text_embedding(_padded(features, self.config.text_len, "text"))

    def _kept(self, context: Tensor | Text, tokens: int) -> tuple[Tensor, Kept | None]:
        """(features, what to keep of them or None): for long clips keeping costs memory and gains little."""
        if not isinstance(context, Text):
            return context, None
        return context.features, context.kept if tokens <= KEPT_UP_TO * self.config.text_len else None

    def _turn(self, latent: Tensor) -> Tensor:
        grid, scale = self.grid(latent), self.config.rope_scale
        if latent.ndim == 3:
            positions = time_positions(grid[0], scale, latent.device)
        else:
            positions = grid_positions(*grid, device=latent.device)
        return rotation(rope_angles(positions, self.config.width // self.config.heads))

    def _reference(
        self, reference: Tensor | Voices | None, tokens: Tensor, latent: Tensor
    ) -> tuple[Tensor | None, Bands | None]:
        """(embedded voices one behind the other, which tokens hear which of them)."""
        if self.config.reference == "none":
            return None, None
        if not isinstance(reference, Voices):
            return self._voice(reference, tokens), None
        heard = reference.heard(self.times(latent))
        voices = {
            i: self._voice(None if i is None else reference.latents[i], tokens) for i in dict.fromkeys(heard)
        }
        if len(voices) == 1:
            return next(iter(voices.values())), None
        ends = torch.tensor([0, *(one.shape[1] for one in voices.values())]).cumsum(0).tolist()
        keys = {i: slice(*part) for i, part in zip(voices, pairwise(ends), strict=True)}
        return torch.cat(list(voices.values()), dim=1), runs(heard, tokens.shape[1] // len(heard), keys)

    def _voice(self, reference: Tensor | None, tokens: Tensor) -> Tensor:
        """No reference is the null voice: zero latents. One stands for all, since equal keys average out."""
        if reference is None:
            null = tokens.new_zeros(len(tokens), 1, self.config.reference_dim)
            return self.reference_embedding(null)
        return self.reference_embedding(_padded(reference, self.config.reference_len, "reference"))


def _input_layer(config: StreamConfig, ops: Any) -> nn.Module:
    if config.input == "linear":
        return ops.Linear(config.in_channels, config.width)
    if config.input == "conv":
        conv = ops.Conv1d(config.in_channels, config.width, GatedConv.KERNEL, padding=GatedConv.KERNEL // 2)
        return nn.Sequential(conv, nn.SiLU(), GatedConv(config.width, ops))
    return ops.Conv3d(config.in_channels, config.width, config.patch, stride=config.patch)


def _unpadded(layer: nn.Module, latent: Tensor, lengths: list[int]) -> Tensor:
    """(b, c, n) -> (b, n, d): convolutions see each sample without its padding, whose tokens are zero."""
    rows = [layer(one[None, :, :length]) for one, length in zip(latent, lengths, strict=True)]
    padded = [functional.pad(one, (0, latent.shape[2] - one.shape[2])) for one in rows]
    return torch.cat(padded).transpose(1, 2).contiguous()


def _reference_layer(config: StreamConfig, ops: Any) -> nn.Module:
    size, width = config.reference_dim, config.width
    if config.reference == "linear":
        return ops.Linear(size, width)
    return nn.Sequential(
        ops.LayerNorm(size), ops.Linear(size, size), nn.GELU(), ops.Linear(size, width), ops.LayerNorm(width)
    )


def _padded(rows: Tensor, length: int, what: str) -> Tensor:
    """Zero rows up to the fixed length; they stay unmasked, as in Wan."""
    if rows.shape[1] > length:
        raise ValueError(f"{what} has {rows.shape[1]} tokens, this model takes at most {length}")
    return functional.pad(rows, (0, 0, 0, length - rows.shape[1]))


def _key_mask(length: Tensor | None, tokens: int, steps: int) -> Tensor | None:
    if length is None:
        return None
    valid = length[:, None] * (tokens // steps)
    return (torch.arange(tokens, device=length.device) < valid)[:, None, None]
