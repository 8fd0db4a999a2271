"""Guidance: how passes with something left out become one estimate. Guiders are values.

result = full + the sum over all terms of (scale - 1) (full - without), stream by stream. With the text left
out this is classifier-free guidance (Ho and Salimans 2022), with the coupling UniAVGen's modality-aware
guidance, with several conditions OmniTalker's rule, whose alpha is scale - 1. A scale of 1 changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..av import AV

Latents = AV[Tensor | None]


@dataclass(frozen=True)
class Without:
    """A pass through the network, by what it leaves out; `FULL` leaves out nothing.

    image: what is kept of the picture is seen as noisy as what is made. coupling: neither stream sees the
    other. blocks: are not run (skip-layer guidance).
    """

    text: bool = False
    voice: bool = False
    image: bool = False
    coupling: bool = False
    blocks: tuple[int, ...] = ()

    def __str__(self) -> str:
        names = [name for name in ("text", "voice", "image", "coupling") if getattr(self, name)]
        blocks = [f"block {', '.join(map(str, self.blocks))}"] if self.blocks else []
        return "without " + " and ".join([*names, *blocks])


FULL = Without()


@dataclass(frozen=True)
class Term:
    """How much one thing counts for each stream. start, end: in fractions of the way from noise to data."""

    without: Without
    scale: AV[float]
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if self.without == FULL:
            raise ValueError("guidance needs a pass that leaves something out; name what")
        for scale in self.scale.present():
            if not 0 <= scale <= 100:
                raise ValueError(f"a guidance scale must be from 0 to 100, got {scale:g}")
        if not 0 <= self.start < self.end <= 1:
            raise ValueError(
                f"guidance must start before it ends, both from 0 to 1, got {self.start:g} to {self.end:g}"
            )

    def __str__(self) -> str:
        whole = (self.start, self.end) == (0, 1)
        return f"{self.without}" + ("" if whole else f" ({self.start:.0%} to {self.end:.0%})")

    @property
    def counts(self) -> bool:
        """False if every scale is 1: its pass would change nothing."""
        return any(scale != 1 for scale in self.scale.present())


@dataclass(frozen=True)
class Guidance:
    """Terms, and a shape for what they add to the full estimate.

    eta: share that stays of the part along the estimate, which oversaturates (APG, Sadat et al. 2024).
    limit: size of all that is added, at most this share of the estimate's own; 0 = no limit.
    rescale: how far the spread goes back to that of the full estimate (Lin et al. 2024), 0 to 1.
    """

    terms: tuple[Term, ...] = ()
    eta: float = 1.0
    limit: float = 0.0
    rescale: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must be from 0 to 1, got {self.eta:g}")
        if not 0 <= self.limit < math.inf:
            raise ValueError(f"the limit of guidance must be at least 0, got {self.limit:g}")
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"rescale must be from 0 to 1, got {self.rescale:g}")

    def __str__(self) -> str:
        terms = [term for term in self.terms if term.counts]
        passes = [str(term) for term in {str(term): term for term in terms}.values()]
        return ", ".join(["the full pass", *passes])

    @property
    def shapes(self) -> bool:
        return (self.eta, self.limit, self.rescale) != (1, 0, 0)

    def at(self, sigma: float, sigma_of: Callable[[float], float]) -> Guidance:
        """The terms that count at this noise level. sigma_of: fraction of the way -> noise level."""
        now = (
            term for term in self.terms if term.counts and sigma_of(term.end) <= sigma <= sigma_of(term.start)
        )
        return replace(self, terms=tuple(now))

    def passes(self) -> list[Without]:
        """What has to be run, each pass once, the full one first."""
        return [FULL, *dict.fromkeys(term.without for term in self.terms)]

    def combine(self, estimates: Mapping[Without, Latents], guided: Latents | None = None) -> Latents:
        """One estimate of those of `passes()`; velocities or denoised ones.

        guided: what other guidance has made of the full one already.
        """
        full = estimates[FULL]
        for term in self.terms:
            without = estimates[term.without]
            if guided is None:
                guided = full.map(_from_without, without, term.scale)
            else:
                guided = guided.map(_further, full, without, term.scale)
        return full if guided is None else guided

    def shape(self, full: Latents, guided: Latents) -> Latents:
        """`guided` with what was added to `full` in shape; denoised estimates."""
        return guided.map(self._shaped, full) if self.shapes else guided

    def _shaped(self, guided: Tensor, full: Tensor) -> Tensor:
        added, axes = guided - full, tuple(range(1, full.ndim))
        if self.limit:
            size, largest = _norm(added, axes), self.limit * _norm(full, axes)
            added = added * (largest / size.clamp(min=1e-12)).clamp(max=1)
        along = (added * full).sum(axes, keepdim=True) / (full * full).sum(axes, keepdim=True).clamp(
            min=1e-12
        )
        guided = full + added - (1 - self.eta) * along * full
        if self.rescale:
            spread = full.std(axes, keepdim=True) / guided.std(axes, keepdim=True).clamp(min=1e-12)
            guided = guided * (1 + self.rescale * (spread - 1))
        return guided


UNGUIDED = Guidance()


def cfg(scale: AV[float], blocks: tuple[int, ...] = ()) -> Guidance:
    """Classifier-free guidance by the text. blocks: left out of the pass without it, as Ovi does."""
    return Guidance((Term(Without(text=True, blocks=blocks), scale),))


def _from_without(full: Tensor, without: Tensor, scale: float) -> Tensor:
    return without + scale * (full - without)


def _further(guided: Tensor, full: Tensor, without: Tensor, scale: float) -> Tensor:
    return guided + (scale - 1) * (full - without)


def _norm(one: Tensor, axes: tuple[int, ...]) -> Tensor:
    return torch.linalg.vector_norm(one, dim=axes, keepdim=True)
