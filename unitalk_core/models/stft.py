"""Short-time Fourier transform with a frame centred on every whole hop: t frames <-> t * hop samples.

b batch · n samples · t frames · k frequency bins (n_fft / 2 + 1)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def stft(waveform: Tensor, n_fft: int, hop: int) -> Tensor:
    """(b, n) -> (b, k, n // hop) complex, periodic Hann window, reflected by (n_fft - hop) / 2 at both ends.

    ValueError where the waveform is too short to be reflected.
    """
    margin = (n_fft - hop) // 2
    samples = waveform.shape[-1]
    if samples <= margin:
        raise ValueError(f"a waveform needs at least {margin + 1} samples for n_fft {n_fft}, got {samples}")
    padded = F.pad(waveform[:, None], (margin, margin), mode="reflect")[:, 0]
    return torch.stft(padded, n_fft, hop, window=_hann(padded, n_fft), center=False, return_complex=True)


def istft(spectrum: Tensor, n_fft: int, hop: int) -> Tensor:
    """(b, k, t) complex -> (b, t * hop): the least-squares inverse of `stft`. `hop` divides `n_fft`."""
    window = _hann(spectrum.real, n_fft)
    frames = torch.fft.irfft(spectrum.transpose(1, 2), n_fft) * window
    power = window.square().expand(1, frames.shape[1], n_fft)
    waveform = _overlap_add(frames, hop) / _overlap_add(power, hop).clamp(min=1e-11)
    margin = (n_fft - hop) // 2
    return waveform[:, margin : margin + spectrum.shape[2] * hop]


def _overlap_add(frames: Tensor, hop: int) -> Tensor:
    """(b, t, n_fft) -> (b, (t - 1) * hop + n_fft)"""
    slices = rearrange(frames, "b t (s hop) -> s b t hop", hop=hop)
    last = len(slices) - 1
    shifted = [F.pad(one, (0, 0, i, last - i)) for i, one in enumerate(slices)]
    return rearrange(torch.stack(shifted).sum(0), "b t hop -> b (t hop)")


def _hann(like: Tensor, n_fft: int) -> Tensor:
    return torch.hann_window(n_fft, dtype=like.dtype, device=like.device)
