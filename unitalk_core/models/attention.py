"""One attention over picture and sound, and who may see whom. No mask of size n x n is ever built.

b batch · h heads · n tokens · d head width
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..av import AV

Attention = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""(q, k, v, mask) -> out; q, k, v, out: (b, h, n, d); mask: boolean keys (b, 1, 1, n) or None."""


@dataclass(frozen=True)
class QKV:
    """Queries, keys, values of one stream (b, h, n, d); key_mask (b, 1, 1, n), True = real token, or None."""

    q: Tensor
    k: Tensor
    v: Tensor
    key_mask: Tensor | None = None


Bands = list[tuple[slice, slice]]
"""Runs of queries with the keys of the other stream that each run sees."""


BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}  # what PyTorch attends with


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def attention_by(backend: str) -> Attention:
    """`sdpa` by one of `BACKENDS` alone."""

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        with sdpa_kernel(BACKENDS[backend]):
            return sdpa(q, k, v, mask)

    return attend


def check_backend(backend: str, head_width: int, device: torch.device, dtype: torch.dtype) -> None:
    """ValueError if a device cannot attend so. Nothing is masked while a clip is made."""
    tokens = torch.zeros(1, 1, 8, head_width, device=device, dtype=dtype)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch gives its reasons
            attention_by(backend)(tokens, tokens, tokens)
    except RuntimeError as error:
        raise ValueError(
            f"{device} has no {backend} attention for {dtype} and heads of {head_width}; leave out the "
            "backend, or take another one"
        ) from error


def split_heads(x: Tensor, heads: int) -> Tensor:
    return rearrange(x, "b n (h d) -> b h n d", h=heads)


def merge_heads(x: Tensor) -> Tensor:
    return rearrange(x, "b h n d -> b n (h d)")


def joint_attention(
    qkv: AV[QKV], couple: tuple[bool, bool], bands: AV[Bands] | None, attention: Attention
) -> AV[Tensor]:
    """Attend over [video; audio]. couple: (audio_to_video, video_to_audio), the direction information flows.

    Both on is one call; anything less is one smaller call per stream, or per band of queries.
    """
    if qkv.video is None or qkv.audio is None:
        return qkv.map(lambda own: _see(own, None, attention))
    if all(couple) and bands is None:
        both = _see(_join(qkv.video, qkv.audio), None, attention)
        return AV(*both.split([qkv.video.q.shape[2], qkv.audio.q.shape[2]], dim=2))
    bands = bands or AV(None, None)
    audio_to_video, video_to_audio = couple
    return AV(
        _see_bands(qkv.video, qkv.audio if audio_to_video else None, bands.video, attention),
        _see_bands(qkv.audio, qkv.video if video_to_audio else None, bands.audio, attention),
    )


def bands_within(video_times: Tensor, audio_times: Tensor, per_frame: int, window: float) -> AV[Bands]:
    """Bands of |time difference| <= window.

    Times: (f,) and (n,), increasing, in latent frames like `window`; per_frame: tokens a latent frame.
    """
    video = _bands(video_times, audio_times, window, per_frame, 1)
    audio = _bands(audio_times, video_times, window, 1, per_frame)
    return AV(video, audio)


def _bands(own: Tensor, other: Tensor, window: float, own_size: int, other_size: int) -> Bands:
    low = torch.searchsorted(other, own - window).tolist()
    high = torch.searchsorted(other, own + window, right=True).tolist()
    bands: Bands = []
    for i, seen in enumerate(zip(low, high, strict=True)):
        keys = slice(seen[0] * other_size, seen[1] * other_size)
        if bands and bands[-1][1] == keys:
            bands[-1] = (slice(bands[-1][0].start, (i + 1) * own_size), keys)
        else:
            bands.append((slice(i * own_size, (i + 1) * own_size), keys))
    return bands


def _see_bands(own: QKV, other: QKV | None, bands: Bands | None, attention: Attention) -> Tensor:
    if other is None or bands is None:
        return _see(own, other, attention)
    runs = [_see(_queries(own, rows), _keys(other, keys), attention) for rows, keys in bands]
    return torch.cat(runs, dim=2)


def _see(own: QKV, other: QKV | None, attention: Attention) -> Tensor:
    """The queries of `own` over its own keys and, if given, those of `other`."""
    seen = own if other is None else _join(own, other)
    return attention(own.q, seen.k, seen.v, seen.key_mask)


def _queries(one: QKV, rows: slice) -> QKV:
    return QKV(one.q[:, :, rows], one.k, one.v, one.key_mask)


def _keys(one: QKV, keys: slice) -> QKV:
    mask = None if one.key_mask is None else one.key_mask[..., keys]
    return QKV(one.q, one.k[:, :, keys], one.v[:, :, keys], mask)


def _join(a: QKV, b: QKV) -> QKV:
    mask = None
    if a.key_mask is not None or b.key_mask is not None:
        mask = torch.cat([_mask_of(a), _mask_of(b)], dim=-1)
    return QKV(*(torch.cat(pair, dim=2) for pair in ((a.q, b.q), (a.k, b.k), (a.v, b.v))), mask)


def _mask_of(one: QKV) -> Tensor:
    if one.key_mask is not None:
        return one.key_mask
    return torch.ones(one.k.shape[0], 1, 1, one.k.shape[2], dtype=torch.bool, device=one.k.device)
