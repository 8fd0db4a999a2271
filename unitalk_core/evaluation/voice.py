"""Is it the same voice? Pitch by YIN, and timbre as the usual cepstrum of the voiced frames.

Neither is a speaker embedding, and neither may be called speaker similarity (SIM).
"""

# n samples · t frames · k coefficients

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..media import resample
from ..models.mel import MEL_16K, Mel

SAMPLE_RATE = MEL_16K.sample_rate
LOWEST, HIGHEST = 60.0, 450.0  # Hz
WINDOW, HOP = 1024, MEL_16K.hop  # samples at 16 kHz
VOICED = 0.25  # YIN threshold (de Cheveigné and Kawahara 2002), a little above theirs for breathy voices
COEFFICIENTS = 20


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


def median_pitch(waveform: Tensor, sample_rate: int) -> float:
    """Median pitch in Hz of the voiced frames; NaN if there are none."""
    track = pitch_track(waveform, sample_rate)
    track = track[~track.isnan()]
    return float(track.median()) if len(track) else math.nan


def cents(a: float, b: float) -> float:
    """Distance between two pitches, 1200 to the octave."""
    return abs(1200 * math.log2(a / b))


def timbre(waveform: Tensor, sample_rate: int) -> Tensor:
    """(n,) -> (2, k): mean and spread of the mel cepstrum, its level left out, over frames within 30 dB."""
    mono = resample(waveform[None].detach().float().cpu(), sample_rate, SAMPLE_RATE)
    mel = Mel(MEL_16K)(mono)[0]  # (mels, t), log10
    level = mel.mean(0)
    heard = mel[:, level >= level.max() - 1.5]  # magnitudes: 1.5 decades are 30 dB
    place = (torch.arange(MEL_16K.mels) + 0.5) * math.pi / MEL_16K.mels
    cosines = torch.cos(torch.arange(1, COEFFICIENTS + 1)[:, None] * place)
    cepstrum = cosines @ heard * (2 / MEL_16K.mels) ** 0.5
    return torch.stack([cepstrum.mean(1), cepstrum.std(1, correction=0)])


def timbre_distance(a: Tensor, b: Tensor) -> float:
    """Distance of two `timbre`s; smaller is more alike."""
    return float((a - b).abs().sum())
