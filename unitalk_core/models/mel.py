"""Log-mel spectrograms as MMAudio computes them.

b batch · n samples · t frames · k frequency bins · mels
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from .stft import stft
from .stored import StoredConfig


@dataclass(frozen=True, kw_only=True)
class MelConfig(StoredConfig):
    """A mel spectrogram: rates in Hz, sizes in samples. Source of the presets: MMAudio `mel_converter.py`."""

    sample_rate: int
    n_fft: int
    hop: int
    mels: int
    low: float = 0.0
    high: float
    log: Literal["log10", "ln"]
    floor: float = 1e-5  # least mel energy before the logarithm
    eps: float = 1e-9  # added to the squared magnitude

    def __post_init__(self) -> None:
        if self.n_fft % self.hop:
            raise ValueError(f"hop {self.hop} must divide n_fft {self.n_fft}")
        if not 0 <= self.low < self.high <= self.sample_rate / 2:
            legal = f"0..{self.sample_rate / 2:g} Hz"
            raise ValueError(f"mel range must lie within {legal}, got {self.low:g}..{self.high:g} Hz")


MEL_16K = MelConfig(sample_rate=16000, n_fft=1024, hop=256, mels=80, high=8000.0, log="log10")
MEL_44K = MelConfig(sample_rate=44100, n_fft=2048, hop=512, mels=128, high=22050.0, log="ln")


class Mel:
    """Waveform to log-mel, always in float32."""

    def __init__(self, config: MelConfig) -> None:
        self.config = config
        self.basis = mel_basis(config)

    def __call__(self, waveform: Tensor) -> Tensor:
        """(b, n) -> (b, mels, n // hop) float32. The waveform is clamped to -1..1.

        ValueError where it is not (b, n) or too short for one window.
        """
        if waveform.dim() != 2:
            raise ValueError(f"a waveform must be (batch, samples), got shape {tuple(waveform.shape)}")
        config = self.config
        spectrum = stft(waveform.float().clamp(-1, 1), config.n_fft, config.hop)
        magnitude = (spectrum.real.square() + spectrum.imag.square() + config.eps).sqrt()
        energy = (self.basis.to(waveform.device) @ magnitude).clamp(min=config.floor)
        return energy.log10() if config.log == "log10" else energy.log()

    def energy(self, mel: Tensor) -> Tensor:
        """Undo the logarithm: (b, mels, t) log-mel -> mel energy."""
        return torch.pow(10.0, mel.float()) if self.config.log == "log10" else mel.float().exp()


@lru_cache(maxsize=8)
def mel_basis(config: MelConfig) -> Tensor:
    """(mels, k) float32 triangular filters: Slaney scale and Slaney area norm, librosa's default."""
    bins = torch.linspace(0, config.sample_rate / 2, config.n_fft // 2 + 1, dtype=torch.float64)
    ends = [_hertz_to_mel(f) for f in (config.low, config.high)]
    corners = _mel_to_hertz(torch.linspace(*ends, config.mels + 2, dtype=torch.float64))
    left, centre, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    return (torch.minimum(rising, falling).clamp(min=0) * 2 / (right - left)).float()


# The Slaney scale: linear to 1 kHz, where it stands at 15 mel, then 27 mel for each factor of 6.4.
KNEE_HERTZ, KNEE_MEL = 1000.0, 15.0
LOG_STEP = math.log(6.4) / 27


def _hertz_to_mel(hertz: float) -> float:
    if hertz < KNEE_HERTZ:
        return hertz * KNEE_MEL / KNEE_HERTZ
    return KNEE_MEL + math.log(hertz / KNEE_HERTZ) / LOG_STEP


def _mel_to_hertz(mel: Tensor) -> Tensor:
    linear = mel * KNEE_HERTZ / KNEE_MEL
    return torch.where(mel < KNEE_MEL, linear, KNEE_HERTZ * torch.exp(LOG_STEP * (mel - KNEE_MEL)))
