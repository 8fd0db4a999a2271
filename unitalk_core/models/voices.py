"""Several reference voices in one clip, each heard by the tokens of its own time alone.

b batch · n latents of a voice · c channels
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

from torch import Tensor

from .attention import Bands

Span = tuple[float, float | None]
"""Seconds at which a voice begins and ends; None is the end of the clip."""


@dataclass(frozen=True)
class Voices:
    """What a model may get in place of one reference.

    latents: one (b, n, c) a voice, time first; spans: on the clock that both streams share, in latent frames,
    None for the voice that is heard wherever no other is. Where there is none, the null voice is heard.
    """

    latents: tuple[Tensor, ...]
    spans: tuple[tuple[float, float] | None, ...]

    @classmethod
    def at_seconds(cls, latents: Sequence[Tensor], spans: Sequence[Span | None], video_rate: float) -> Voices:
        """video_rate: latent frames per second."""
        clock = [
            None if span is None else (span[0] * video_rate, end_of(span) * video_rate) for span in spans
        ]
        return cls(tuple(latents), tuple(clock))

    def to(self, like: Tensor) -> Voices:
        return replace(self, latents=tuple(one.to(like) for one in self.latents))

    def heard(self, times: Tensor) -> list[int | None]:
        """Which voice is heard at each of `times`, in latent frames; None is the null voice."""
        rest = next((i for i, span in enumerate(self.spans) if span is None), None)
        return [
            next((i for i, span in enumerate(self.spans) if within(time, span)), rest)
            for time in times.tolist()
        ]


def within(time: float, span: tuple[float, float] | None) -> bool:
    return span is not None and span[0] <= time < span[1]


def end_of(span: Span) -> float:
    return math.inf if span[1] is None else span[1]


def runs(heard: Sequence[int | None], size: int, keys: dict[int | None, slice]) -> Bands:
    """Runs of tokens that hear the same, each with its keys; size: tokens a step."""
    bands, first = [], 0
    for voice, steps in groupby(heard):
        last = first + len(list(steps)) * size
        bands.append((slice(first, last), keys[voice]))
        first = last
    return bands


def check_spans(spans: Sequence[Span], seconds: float) -> None:
    """ValueError if a span is none, begins behind the end of a clip of `seconds`, or meets another one."""
    for span in spans:
        if not (0 <= span[0] < end_of(span)):  # false for NaN too
            raise ValueError(f"a voice is heard from a second on to a later one, got {as_text(span)}")
        if span[0] >= seconds:
            raise ValueError(
                f"the clip of {seconds:.2f} s ends before the voice of {as_text(span)} begins; let it begin "
                "earlier (UniTalk Voice Range), or make the clip longer"
            )
    for one, other in pairwise(sorted(spans, key=lambda span: span[0])):
        if other[0] < end_of(one):
            raise ValueError(
                f"the voices of {as_text(one)} and {as_text(other)} meet; let one end where the other begins"
            )


def as_text(span: Span) -> str:
    """Such as "1.5-2 s", or "1.5 s to the end"."""
    return f"{span[0]:g} s to the end" if span[1] is None else f"{span[0]:g}-{span[1]:g} s"
