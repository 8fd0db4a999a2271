"""How the two streams meet inside a block: a strategy named in the config.

`joint` (UniTalking): one softmax over [video; audio] in the self-attention slot.
`fusion` (Ovi): each stream attends to itself; the other one is read in the cross-attention slot.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from ..av import AV
from .attention import QKV, Attention, Bands, joint_attention, sdpa
from .layers import StreamState


@dataclass(frozen=True)
class Joint:
    """couple: (audio_to_video, video_to_audio), the directions in which information flows."""

    couple: tuple[bool, bool] = (True, True)
    bands: AV[Bands] | None = None
    attention: Attention = sdpa
    bypass: bool = False  # each token sees itself only

    def attend(self, qkv: AV[QKV]) -> AV[Tensor]:
        if self.bypass:
            return qkv.map(lambda one: one.v)
        return joint_attention(qkv, self.couple, self.bands, self.attention)

    @staticmethod  # so that a compiled block depends on nothing of this meeting
    def others(state: AV[StreamState]) -> AV[StreamState | None]:  # noqa: ARG004 - Fusion reads it
        """What each stream reads in its cross-attention slot."""
        return AV(None, None)


class Fusion(Joint):
    def attend(self, qkv: AV[QKV]) -> AV[Tensor]:
        if self.bypass:
            return super().attend(qkv)
        return joint_attention(qkv, (False, False), None, self.attention)

    def others(self, state: AV[StreamState]) -> AV[StreamState | None]:
        audio_to_video, video_to_audio = self.couple
        return AV(state.audio if audio_to_video else None, state.video if video_to_audio else None)


COUPLINGS = {"joint": Joint, "fusion": Fusion}


def bypassed(meeting: Joint) -> Joint:
    return replace(meeting, bypass=True)
