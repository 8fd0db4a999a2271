"""Waveform <-> audio latent: mel, VAE and vocoder behind one pair of verbs.

b batch · c channels · n latents · samples
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .audio_vae import AudioVAE
from .mel import Mel

Vocoder = Callable[[Tensor], Tensor]  # log-mel (b, mels, t) -> waveform (b, t * hop)


class AudioCodec(nn.Module):
    """Latents are those of `vae.encode`: standardised where its configuration carries statistics."""

    def __init__(self, mel: Mel, vae: AudioVAE, vocoder: Vocoder) -> None:
        """ValueError where the parts do not share the number of mels and the hop."""
        super().__init__()
        config = getattr(vocoder, "config", mel.config)
        if not mel.config.mels == vae.config.mels == config.mels:
            parts = f"mel {mel.config.mels}, VAE {vae.config.mels}, vocoder {config.mels}"
            raise ValueError(f"the audio codec's parts must share the number of mels, got {parts}")
        if config.hop != mel.config.hop:
            raise ValueError(f"the vocoder makes {config.hop} samples a frame, the mel has {mel.config.hop}")
        self.mel, self.vae, self.vocoder = mel, vae, vocoder

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.mel.config.sample_rate

    @property
    def stride(self) -> int:
        """Samples per latent: 512 at 16 kHz, 1024 at 44.1 kHz."""
        return self.mel.config.hop * self.vae.config.stride

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        return self.vae.config.latent_channels

    def pad(self, waveform: Tensor) -> Tensor:
        """(..., samples) with silence appended up to the next whole latent."""
        return F.pad(waveform, (0, -waveform.shape[-1] % self.stride))

    @torch.no_grad()
    def encode(self, waveform: Tensor) -> Tensor:
        """(b, samples) -> (b, c, samples / stride), the mean latent.

        ValueError where the samples are no whole number of latents (`pad` makes them so) or not finite.
        """
        if waveform.dim() != 2:
            raise ValueError(f"a waveform must be (batch, samples), got shape {tuple(waveform.shape)}")
        samples, stride = waveform.shape[1], self.stride
        if samples < stride or samples % stride:
            below = max(stride, samples - samples % stride)
            legal = f"use {below} or {below + stride}"
            raise ValueError(f"a waveform must be a multiple of {stride} samples, got {samples}; {legal}")
        _check_finite(waveform, "waveform")
        return self.vae.encode(self.mel(waveform).to(_dtype(self.vae)))

    @torch.no_grad()
    def decode(self, latent: Tensor) -> Tensor:
        """(b, c, n) -> (b, n * stride) float32 in -1..1; ValueError for other channels or NaN."""
        _check_finite(latent, "audio latent")
        mel = self.vae.decode(latent.to(_dtype(self.vae)))
        return self.vocoder(mel.to(_dtype(self.vocoder))).float().clamp(-1, 1)


def _dtype(part: Vocoder) -> torch.dtype:
    """What a network's weights are; float32 for a vocoder without any."""
    return next(part.parameters()).dtype if isinstance(part, nn.Module) else torch.float32


def _check_finite(values: Tensor, name: str) -> None:
    if not torch.isfinite(values).all():
        count = int((~torch.isfinite(values)).sum())
        raise ValueError(f"the {name} has {count} values that are not finite (of {values.numel()})")
