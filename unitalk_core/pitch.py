"""The pitch of a voice, by YIN (de Cheveigné and Kawahara 2002).

n samples · t frames
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .media import resample
from .models.mel import MEL_16K

SAMPLE_RATE = MEL_16K.sample_rate
LOWEST, HIGHEST = 60.0, 450.0  # Hz
WINDOW, HOP = 400, MEL_16K.hop  # samples at 16 kHz; 25 ms, as in the paper
VOICED = 0.25  # threshold, a little above theirs for breathy voices


def pitch_track(waveform: Tensor, sample_rate: int) -> Tensor:
    """(n,) -> (t,) Hz every 16 ms by YIN; NaN where the frame is silent or has no pitch."""
    mono = resample(waveform[None].detach().float().cpu(), sample_rate, SAMPLE_RATE)[0]
    longest, shortest = math.ceil(SAMPLE_RATE / LOWEST), math.floor(SAMPLE_RATE / HIGHEST)
    if len(mono) < WINDOW + longest:
        return torch.full((0,), math.nan)
    frames = mono.unfold(0, WINDOW + longest, HOP).double()
    normal = _normalised_difference(frames, longest)
    candidates = normal[:, shortest:longest]
    dips = candidates < VOICED
    first = torch.where(dips.any(1), dips.int().argmax(1), candidates.argmin(1))
    lag = _bottom(candidates, first)
    power = frames.square().mean(1)
    quiet = power <= 1e-3 * power.max()
    voiced = dips.any(1) & ~quiet
    pitch = torch.full((len(frames),), math.nan, dtype=torch.float64)
    pitch[voiced] = SAMPLE_RATE / (_parabolic(normal, lag + shortest)[voiced])
    return pitch.float()


def _normalised_difference(frames: Tensor, longest: int) -> Tensor:
    """(t, window + longest) -> (t, longest + 1): YIN's cumulative mean normalised difference for each lag."""
    size = frames.shape[1] + WINDOW
    head = torch.fft.rfft(frames[:, :WINDOW], n=size)
    correlation = torch.fft.irfft(head.conj() * torch.fft.rfft(frames, n=size), n=size)[:, : longest + 1]
    power = torch.nn.functional.pad(frames.square().cumsum(1), (1, 0))
    energy = power[:, WINDOW : WINDOW + longest + 1] - power[:, : longest + 1]
    difference = (energy[:, :1] + energy - 2 * correlation).clamp_min(0)
    lags = torch.arange(1, longest + 1, dtype=frames.dtype)
    mean = difference[:, 1:].cumsum(1) / lags
    return torch.cat([torch.ones_like(difference[:, :1]), difference[:, 1:] / mean.clamp_min(1e-12)], 1)


def _bottom(values: Tensor, start: Tensor) -> Tensor:
    """(t, lags), (t,) -> (t,): from each start downhill to the nearest local minimum."""
    rising = torch.nn.functional.pad(values[:, 1:] >= values[:, :-1], (0, 1), value=True)
    later = torch.arange(values.shape[1]) >= start[:, None]
    return (rising & later).int().argmax(1)


def _parabolic(values: Tensor, lag: Tensor) -> Tensor:
    """(t,) lags refined by a parabola through each minimum and its neighbours."""
    at = lag.clamp(1, values.shape[1] - 2)
    before, here, after = (values.gather(1, (at + side)[:, None])[:, 0] for side in (-1, 0, 1))
    return at + 0.5 * (before - after) / (before - 2 * here + after).clamp_min(1e-9)
