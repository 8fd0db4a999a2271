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
from ..pitch import pitch_track

SAMPLE_RATE = MEL_16K.sample_rate
COEFFICIENTS = 20


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
