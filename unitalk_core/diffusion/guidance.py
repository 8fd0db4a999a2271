"""Guidance: how the estimates with and without the prompt become one. Guiders are values."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..av import AV


@dataclass(frozen=True)
class CFG:
    """Classifier-free guidance (Ho and Salimans 2022) with one scale per stream; 1 is the prompt alone."""

    scale: AV[float]

    @property
    def needs_uncond(self) -> bool:
        """False if every scale is 1: the second pass through the model would change nothing."""
        return any(scale != 1 for scale in self.scale.present())

    def combine(self, cond: AV[Tensor | None], uncond: AV[Tensor | None]) -> AV[Tensor | None]:
        """uncond + scale * (cond - uncond), stream by stream; for velocities as for denoised estimates."""
        return cond.map(lambda c, u, scale: u + scale * (c - u), uncond, self.scale)
