"""One clip over several devices: each process has its share of the tokens of both streams (context parallel).

All but the self-attention is done token by token. There the queries of a process see the keys and values of
all, which are gathered once a block, so any number of processes and of tokens gives what one would.

b batch · n tokens · d width
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import pad

from .av import AV
from .models.attention import QKV, Attention, Bands
from .models.coupling import Joint
from .models.layers import StreamState
from .models.mmdit import always

States = AV[StreamState | None]


@dataclass(frozen=True)
class ContextParallel:
    """What `Hooks.share` takes, for process `rank` of `size`. It has no gradient: it samples."""

    rank: int
    size: int

    def __call__(self, state: States, meeting: Joint) -> tuple[States, Gathering, Callable[[States], States]]:
        """(the share of the tokens, how shares meet, what makes them whole again).

        ValueError for a stream of fewer tokens than processes.
        """
        lengths = [one.tokens.shape[1] for one in state.present()]
        if min(lengths) < self.size:
            raise ValueError(
                f"{min(lengths)} tokens cannot be shared by {self.size} processes; start fewer of them"
            )
        own = state.map(lambda one: shares(one.tokens.shape[1], self.size)[self.rank])
        rest = state.map(lambda one: replace(one, tokens=one.tokens.new_empty(0)))
        whole = partial(self.whole, rest, lengths)
        if meeting.bands is not None:
            meeting = replace(meeting, bands=meeting.bands.map(bands_of, own))
        return state.map(share_of, own), Gathering(meeting, self, lengths, whole), whole

    def whole(self, rest: States, lengths: Sequence[int], state: States) -> States:
        """All tokens, in states that hold what else belongs to all of them."""
        tokens = iter(self.gather([one.tokens for one in state.present()], lengths))
        return rest.map(lambda one: replace(one, tokens=next(tokens)))

    def gather(self, own: Sequence[Tensor], lengths: Sequence[int]) -> list[Tensor]:
        """Shares (..., n, d) of as many tokens as `lengths` says, made whole; all in one message."""
        padded = [
            pad(one, (0, 0, 0, -(-length // self.size) - one.shape[-2]))
            for one, length in zip(own, lengths, strict=True)
        ]
        sent = torch.cat([one.flatten() for one in padded])
        received = [torch.empty_like(sent) for _ in range(self.size)]
        distributed.all_gather(received, sent)
        parts = zip(*(one.split([one.numel() for one in padded]) for one in received), strict=True)
        return [
            torch.cat(
                [
                    part.view_as(like)[..., : at.stop - at.start, :]
                    for part, at in zip(some, shares(length, self.size), strict=True)
                ],
                dim=-2,
            )
            for some, like, length in zip(parts, padded, lengths, strict=True)
        ]


@dataclass(frozen=True)
class Gathering:
    """A meeting in which the queries are of this process, the keys and values of all."""

    meeting: Joint
    parallel: ContextParallel
    lengths: Sequence[int]
    whole: Callable[[States], States]
    bypass: bool = False  # each token sees itself only

    @property
    def attention(self) -> Attention:
        return self.meeting.attention

    def attend(self, qkv: AV[QKV]) -> AV[Tensor]:
        if self.bypass:
            return qkv.map(lambda one: one.v)
        both = [seen for one in qkv.present() for seen in (one.k, one.v)]
        seen = iter(self.parallel.gather(both, [length for length in self.lengths for _ in range(2)]))
        return self.meeting.attend(qkv.map(lambda one: QKV(one.q, next(seen), next(seen), one.key_mask)))

    def others(self, state: States) -> States:
        read = self.meeting.others(state).present()
        return self.meeting.others(self.whole(state)) if read else AV(None, None)


def share_tokens(model: nn.Module, rank: int, size: int) -> None:
    """Have every pass of this JointDiT run by all processes together, from now on."""
    always(model, share=ContextParallel(rank, size))
    model.register_forward_hook(lambda _, args, velocity: velocity.map(_agreed))  # noqa: ARG005 - torch's


def shares(tokens: int, size: int) -> list[slice]:
    """Runs of tokens, one a process, of lengths that differ by one at most."""
    return [slice(*run) for run in pairwise(tokens * i // size for i in range(size + 1))]


def share_of(state: StreamState, own: slice) -> StreamState:
    """All that goes with the queries; what goes with the keys stays whole."""
    return replace(
        state,
        tokens=state.tokens[:, own],
        index=None if state.index is None else state.index[:, own],
        turn=state.turn[:, own],
        hearing=None if state.hearing is None else bands_of(state.hearing, own),
    )


def bands_of(bands: Bands, own: slice) -> Bands:
    """The bands of the queries in `own`, counted from its start."""
    runs = ((max(rows.start, own.start), min(rows.stop, own.stop), keys) for rows, keys in bands)
    return [(slice(first - own.start, last - own.start), keys) for first, last, keys in runs if first < last]


def _agreed(velocity: Tensor) -> Tensor:
    """The first process's, bit for bit: on unlike devices a step cache might decide otherwise, and wait."""
    velocity = velocity.contiguous()
    distributed.broadcast(velocity, src=0)
    return velocity
