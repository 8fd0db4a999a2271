"""How training runs blocks: compiled, with one masked attention, and on a CPU with it written out.

b batch · h heads · n tokens · m keys · d head width
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ..av import AV
from ..models.attention import QKV, Attention
from ..models.coupling import Joint
from ..models.mmdit import Hooks, after_attention, before_attention


def training_hooks(compiled: bool, attention: Attention) -> Hooks:
    """Blocks whose coupling is one call; maybe compiled, once for any length (twice as fast on a CPU)."""
    before, after = before_attention, after_attention
    if compiled:
        before, after = (torch.compile(one, dynamic=True) for one in (before, after))

    def run_block(_index: int, block: partial, state: AV) -> AV:
        return block(state, before=before, after=after, attend=attend)

    return Hooks(attention=attention, run_block=run_block)


def attend(meeting: Joint, qkv: AV[QKV]) -> AV[Tensor]:
    """What `meeting.attend` gives, in one call: for short clips a mask is faster than bands."""
    if type(meeting) is not Joint or meeting.bands is None or len(qkv.present()) == 1:
        return meeting.attend(qkv)
    sizes = [one.q.shape[2] for one in qkv.present()]
    q, k, v = (torch.cat([getattr(one, part) for one in qkv.present()], dim=2) for part in "qkv")
    out = meeting.attention(q, k, v, visible(meeting, *sizes)[None, None])
    return AV(*out.split(sizes, dim=2))


def visible(meeting: Joint, video: int, audio: int) -> Tensor:
    """(n, n) over [video; audio]: each token sees its own stream, and of the other what `meeting` allows."""
    seen = torch.block_diag(torch.ones(video, video), torch.ones(audio, audio)).bool()
    audio_to_video, video_to_audio = meeting.couple
    for rows, keys in meeting.bands.video:
        seen[:video, video:][rows, keys] = audio_to_video
    for rows, keys in meeting.bands.audio:
        seen[video:, :video][rows, keys] = video_to_audio
    return seen


def plain_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention as in the textbook; its bfloat16 backward is faster than SDPA's on a CPU."""
    return attention_weights(q, k, mask) @ v


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    """(b, h, n, m): softmax over the keys that the boolean mask leaves."""
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return (logits if mask is None else logits.masked_fill(~mask, float("-inf"))).softmax(-1)
