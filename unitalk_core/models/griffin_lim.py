"""Griffin-Lim: a vocoder without weights (fast variant with momentum, Perraudin et al. 2013).

b batch · mels · t frames · k frequency bins · n samples
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .mel import Mel, MelConfig
from .stft import istft, stft

TINY = 1e-12


class GriffinLim:
    """Log-mel (b, mels, t) -> waveform (b, t * hop). The start phases are drawn from one fixed seed."""

    def __init__(self, config: MelConfig, iterations: int = 32, momentum: float = 0.99) -> None:
        if iterations < 1 or not 0 <= momentum < 1:
            raise ValueError(f"need iterations above 0 and momentum in 0..1, got {iterations} and {momentum}")
        self.config, self.iterations, self.momentum = config, iterations, momentum
        self.mel = Mel(config)

    def __call__(self, mel: Tensor) -> Tensor:
        """Not clamped; ValueError for another number of mels or too few frames to find phases for."""
        config = self.config
        fewest = (config.n_fft - config.hop) // (2 * config.hop) + 1
        if mel.dim() != 3 or mel.shape[1] != config.mels or mel.shape[2] < fewest:
            want = f"(batch, {config.mels}, {fewest} or more)"
            raise ValueError(f"a mel must be {want}, got {tuple(mel.shape)}")
        magnitude = magnitude_from_mel(self.mel, mel)
        phases = self._start(magnitude)
        before = torch.zeros_like(phases)
        for _ in range(self.iterations):
            rebuilt = stft(istft(magnitude * phases, config.n_fft, config.hop), config.n_fft, config.hop)
            phases = rebuilt + self.momentum * (rebuilt - before)
            phases = phases / phases.abs().clamp(min=TINY)
            before = rebuilt
        return istft(magnitude * phases, config.n_fft, config.hop)

    @staticmethod
    def _start(magnitude: Tensor) -> Tensor:
        """Unit complex numbers (b, k, t), the same for every item of a batch."""
        generator = torch.Generator("cpu").manual_seed(0)
        angle = 2 * math.pi * torch.rand(magnitude.shape[1:], generator=generator)
        return torch.polar(torch.ones_like(angle), angle).to(magnitude.device).expand(magnitude.shape)


def magnitude_from_mel(mel: Mel, log_mel: Tensor, iterations: int = 60) -> Tensor:
    """(b, mels, t) log-mel -> (b, k, t) magnitudes >= 0 whose mel is nearest to it in least squares.

    Starts from the clamped pseudo-inverse, refined by the multiplicative updates of Lee and Seung (2001).
    """
    energy, basis = mel.energy(log_mel), mel.basis.to(log_mel.device)
    magnitude = (torch.linalg.pinv(basis) @ energy).clamp(min=1e-5)
    wanted = basis.T @ energy
    for _ in range(iterations):
        magnitude = magnitude * wanted / (basis.T @ (basis @ magnitude)).clamp(min=TINY)
    return magnitude
