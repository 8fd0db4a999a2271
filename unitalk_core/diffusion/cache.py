"""A step cache: where neither stream's velocity would change much, that of an earlier step is taken again.

After EasyCache (Zhou et al. 2025): the velocity is taken to change in proportion to the latent, as it did
between the last two steps that were computed. Here each stream is judged for itself, and both must agree.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, field

from torch import Tensor

from ..av import AV
from .guidance import FULL, Latents, Without


@dataclass(frozen=True)
class StepCache:
    """threshold: how far each stream's velocity may be from a computed one, as a share of it; 0 = not at all.

    start, end: steps before and after these fractions of the way from noise to data are always computed.
    """

    threshold: AV[float]
    start: float = 0.15
    end: float = 0.95

    def __post_init__(self) -> None:
        for share in self.threshold.present():
            if not 0 <= share <= 1:
                raise ValueError(f"the threshold of a step cache must be from 0 to 1, got {share:g}")
        if not 0 <= self.start < self.end <= 1:
            got = f"{self.start:g} to {self.end:g}"
            raise ValueError(f"a step cache must start before it ends, both from 0 to 1, got {got}")


@dataclass
class Reuse:
    """What a cache remembers in one run. sigma_of: fraction of the way from noise to data -> noise level."""

    rule: StepCache
    sigma_of: Callable[[float], float]
    stored: dict[Hashable, Latents] = field(default_factory=dict)  # velocity by pass
    calls: int = 0
    skipped: int = 0
    seen: tuple[Latents, Latents] | None = None  # latents and velocity of the last full pass
    rate: AV[float | None] | None = None  # change of the velocity by change of the latents

    def __str__(self) -> str:
        return f"{self.skipped} of {self.calls} steps taken from the cache"

    def velocities(
        self,
        x: Latents,
        sigma: float,
        passes: Collection[Without],
        run: Callable[[Collection[Without]], dict[Without, Latents]],
    ) -> dict[Without, Latents]:
        """Those of all passes of a step, stored or computed."""
        if not self.skips(x, sigma, passes):
            self.stored = run(passes)
            self.learn(x, self.stored[FULL])
        return {one: self.stored[one] for one in passes}

    def skips(self, x: Latents, sigma: float, keys: Collection[Hashable]) -> bool:
        """Whether this step may do without the network; asked once a step, with what the full pass sees."""
        self.calls += 1
        inside = self.sigma_of(self.rule.end) <= sigma <= self.sigma_of(self.rule.start)
        known = self.rate is not None and all(key in self.stored for key in keys)
        skips = inside and known and self._near(x)
        self.skipped += skips
        return skips

    def learn(self, x: Latents, velocity: Latents) -> None:
        """What the full pass saw and made."""
        if self.seen is not None:
            moved, turned = x.map(_distance, self.seen[0]), velocity.map(_distance, self.seen[1])
            self.rate = turned.map(lambda by, of: by / max(of, 1e-12), moved)
        self.seen = x, velocity

    def _near(self, x: Latents) -> bool:
        """Whether each velocity, as far as it is expected to have changed, is within its threshold."""
        before, velocity = self.seen
        moved, size = x.map(_distance, before), velocity.map(lambda one: one.abs().mean().item())
        share = moved.map(lambda far, rate, of: far * rate / max(of, 1e-12), self.rate, size)
        return all(share.map(lambda one, most: one < most, self.rule.threshold).present())


def _distance(one: Tensor, other: Tensor) -> float:
    return (one - other).abs().mean().item()
