"""A vocoder after Vocos (arXiv 2306.00814): ConvNeXt blocks at the mel's frame rate, then one inverse STFT.

b batch · mels · t frames · k frequency bins · d width · n samples
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .mel import MelConfig, mel_basis
from .source import harmonic_source, hertz_from
from .stft import istft, stft
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
    sample_rate: int = 0  # Hz, where phases start from a harmonic source; 0 = the network gives them whole

    def __post_init__(self) -> None:
        if self.n_fft % self.hop:
            raise ValueError(f"hop {self.hop} must divide n_fft {self.n_fft}")

    @property
    def bins(self) -> int:
        return self.n_fft // 2 + 1


VOCOS_TINY = VocosConfig(mels=80, n_fft=1024, hop=256, sample_rate=16000)


class Track(NamedTuple):
    """Pitch (b, t) in Hz; voiced (b, t): the log-odds that there is one."""

    hertz: Tensor
    voiced: Tensor


class Vocos(nn.Module):
    """Log-mel (b, mels, t) -> waveform (b, t * hop).

    The magnitude starts from `skip`, a linear map of the log-mel, which the trunk corrects. The phases start
    from those of a harmonic source at the pitch that the trunk finds, where the configuration has one.
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
        self.pitch = ops.Linear(config.width, 2) if config.sample_rate else None

    def forward(self, mel: Tensor) -> Tensor:
        """(b, mels, t) -> (b, t * hop), not clamped; ValueError for another number of mels."""
        if mel.dim() != 3 or mel.shape[1] != self.config.mels:
            raise ValueError(f"a mel must be (batch, {self.config.mels}, frames), got {tuple(mel.shape)}")
        tokens = self.trunk(mel)
        return self.render(mel, tokens, self.track(tokens))

    def trunk(self, mel: Tensor) -> Tensor:
        """(b, mels, t) -> (b, t, d)"""
        tokens = self.norm_in(rearrange(self.embed(mel), "b d t -> b t d"))
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm_out(tokens)

    def track(self, tokens: Tensor) -> Track | None:
        """The pitch that the trunk finds; None without a harmonic source."""
        if self.pitch is None:
            return None
        pitch, voiced = self.pitch(tokens).float().unbind(-1)
        return Track(hertz_from(pitch), voiced)

    def render(self, mel: Tensor, tokens: Tensor, track: Track | None) -> Tensor:
        """(b, mels, t), (b, t, d), and the pitch to speak at -> (b, t * hop)"""
        return istft(self.spectrum(mel, tokens, track), self.config.n_fft, self.config.hop)

    def spectrum(self, mel: Tensor, tokens: Tensor, track: Track | None) -> Tensor:
        """The same -> (b, k, t) complex64"""
        config = self.config
        log_gain, real, imag = self.head(tokens).float().chunk(3, dim=-1)
        log_magnitude = self.skip(rearrange(mel, "b mels t -> b t mels")).float() + log_gain
        scale = log_magnitude.clamp(max=LOUDEST).exp() / (real.square() + imag.square() + 1e-7).sqrt()
        spectrum = torch.complex(real * scale, imag * scale).transpose(1, 2)
        if track is None:
            return spectrum
        source = harmonic_source(track.hertz, track.voiced.sigmoid(), config.hop, config.sample_rate)
        return spectrum * unit(stft(source, config.n_fft, config.hop))


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


def unit(spectrum: Tensor) -> Tensor:
    return spectrum / spectrum.abs().clamp(min=1e-7)


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
    if vocos.pitch is not None:  # the source's phases as they are
        vocos.head.weight[vocos.config.bins :] *= 0.1
        vocos.head.bias[vocos.config.bins : 2 * vocos.config.bins] = 1.0
