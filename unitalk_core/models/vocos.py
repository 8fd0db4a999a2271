"""A vocoder after Vocos (arXiv 2306.00814): ConvNeXt blocks at the mel's frame rate, then one inverse STFT.

b batch · mels · t frames · k frequency bins · d width · n samples
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .mel import MelConfig, mel_basis
from .stft import istft
from .stored import StoredConfig

LOUDEST = 7.0  # largest natural log of a magnitude; a full-scale sine reaches log(n_fft / 4)


@dataclass(frozen=True, kw_only=True)
class VocosConfig(StoredConfig):
    """Sizes of the vocoder; `mels`, `n_fft` and `hop` are those of the mel that it inverts."""

    mels: int
    n_fft: int
    hop: int
    width: int = 256
    hidden: int = 640
    depth: int = 6
    kernel: int = 7

    def __post_init__(self) -> None:
        if self.n_fft % self.hop:
            raise ValueError(f"hop {self.hop} must divide n_fft {self.n_fft}")

    @property
    def bins(self) -> int:
        return self.n_fft // 2 + 1


VOCOS_TINY = VocosConfig(mels=80, n_fft=1024, hop=256)


class Vocos(nn.Module):
    """Log-mel (b, mels, t) -> waveform (b, t * hop).

    The magnitude starts from `skip`, a linear map of the log-mel; the trunk corrects it and gives the phases.
    """

    def __init__(self, config: VocosConfig, ops: Any = nn) -> None:
        super().__init__()
        self.config = config
        self.embed = ops.Conv1d(config.mels, config.width, config.kernel, padding=config.kernel // 2)
        self.norm_in = ops.LayerNorm(config.width, eps=1e-6)
        self.blocks = nn.ModuleList(ConvNeXt(config, ops) for _ in range(config.depth))
        self.norm_out = ops.LayerNorm(config.width, eps=1e-6)
        self.head = ops.Linear(config.width, 3 * config.bins)
        self.skip = ops.Linear(config.mels, config.bins)

    def forward(self, mel: Tensor) -> Tensor:
        """(b, mels, t) -> (b, t * hop), not clamped; ValueError for another number of mels."""
        if mel.dim() != 3 or mel.shape[1] != self.config.mels:
            raise ValueError(f"a mel must be (batch, {self.config.mels}, frames), got {tuple(mel.shape)}")
        return istft(self.spectrum(mel), self.config.n_fft, self.config.hop)

    def spectrum(self, mel: Tensor) -> Tensor:
        """(b, mels, t) -> (b, k, t) complex64"""
        tokens = self.norm_in(rearrange(self.embed(mel), "b d t -> b t d"))
        for block in self.blocks:
            tokens = block(tokens)
        log_gain, real, imag = self.head(self.norm_out(tokens)).float().chunk(3, dim=-1)
        log_magnitude = self.skip(rearrange(mel, "b mels t -> b t mels")).float() + log_gain
        scale = log_magnitude.clamp(max=LOUDEST).exp() / (real.square() + imag.square() + 1e-7).sqrt()
        return torch.complex(real * scale, imag * scale).transpose(1, 2)


class ConvNeXt(nn.Module):
    """Depthwise convolution over time, pointwise MLP, residual scaled by `gamma`. (b, t, d) -> same"""

    def __init__(self, config: VocosConfig, ops: Any) -> None:
        super().__init__()
        width, kernel = config.width, config.kernel
        self.depthwise = ops.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = ops.LayerNorm(width, eps=1e-6)
        self.expand = ops.Linear(width, config.hidden)
        self.reduce = ops.Linear(config.hidden, width)
        self.gamma = nn.Parameter(torch.full((width,), 1 / config.depth))

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.depthwise(tokens.transpose(1, 2)).transpose(1, 2)
        return tokens + self.gamma * self.reduce(F.gelu(self.expand(self.norm(h))))


@torch.no_grad()
def start_from_mel(vocos: Vocos, mel: MelConfig) -> None:
    """Where training begins: `skip` reads the magnitude off the mel, and the trunk does not correct it."""
    basis = mel_basis(mel)
    share = basis.T / basis.T.sum(1, keepdim=True).clamp(min=1e-6)  # (k, mels)
    to_natural = 1.0 if mel.log == "ln" else float(torch.tensor(10.0).log())
    vocos.skip.weight.copy_(share * to_natural)
    vocos.skip.bias.copy_(-(share @ basis.sum(1).log()))
    silent = basis.sum(0) == 0
    vocos.skip.bias[silent] = float(torch.tensor(mel.floor).log())
    vocos.head.weight[: vocos.config.bins].zero_()
    vocos.head.bias[: vocos.config.bins].zero_()
