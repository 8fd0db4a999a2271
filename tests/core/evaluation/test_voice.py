"""Pitch is measured in Hz, silence and noise have none, and a timbre is told from another."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from unitalk_core.evaluation.voice import cents, median_pitch, timbre, timbre_distance
from unitalk_core.pitch import pitch_track

RATE = 16000


def buzz(hertz: float, tilt: float = 1.0, rate: int = RATE, seconds: float = 1.5, seed: int = 0) -> Tensor:
    """(n,) a voice-like sound: harmonics that fall with `tilt`, slowly swelling, a little noise."""
    times = torch.arange(int(rate * seconds)) / rate
    parts = [torch.sin(2 * math.pi * hertz * k * times) / k**tilt for k in range(1, int(7000 / hertz))]
    noise = torch.randn(len(times), generator=torch.Generator().manual_seed(seed))
    return 0.1 * torch.stack(parts).sum(0) * (1 + 0.5 * torch.sin(20 * times)) + 0.002 * noise


@pytest.mark.parametrize("hertz", [70.0, 110.0, 196.5, 310.0, 400.0])
@pytest.mark.parametrize("tilt", [0.7, 1.5])
def test_pitch_is_right_within_a_few_cents(hertz: float, tilt: float) -> None:
    assert cents(median_pitch(buzz(hertz, tilt), RATE), hertz) < 10


def test_pitch_does_not_depend_on_the_sample_rate() -> None:
    assert cents(median_pitch(buzz(150, rate=44100), 44100), 150) < 10


def test_a_glide_is_followed() -> None:
    hertz = torch.linspace(100, 200, 2 * RATE)
    track = pitch_track(torch.sin(2 * math.pi * (hertz / RATE).cumsum(0)), RATE)
    places = torch.linspace(100, 200, len(track))
    assert (track - places).abs().nanmean() < 4


def test_a_pitch_that_rises_and_falls_within_a_syllable_is_found() -> None:
    rise = torch.linspace(80, 130, round(0.12 * RATE))
    hertz = torch.cat([rise, rise.flip(0)]).repeat(5)
    phase = 2 * math.pi * (hertz / RATE).cumsum(0)
    voice = torch.stack([torch.sin(k * phase) / k**0.7 for k in range(1, 40)]).sum(0)
    track = pitch_track(voice, RATE)
    assert (~track.isnan()).float().mean() > 0.4
    assert cents(median_pitch(voice, RATE), 105) < 100


def test_silence_noise_and_a_click_have_no_pitch() -> None:
    noise = torch.randn(RATE, generator=torch.Generator().manual_seed(0))
    assert math.isnan(median_pitch(torch.zeros(RATE), RATE))
    assert pitch_track(noise, RATE).isnan().float().mean() > 0.95
    assert math.isnan(median_pitch(torch.zeros(100), RATE))


def test_cents_are_1200_to_the_octave() -> None:
    assert cents(220, 110) == pytest.approx(1200) == cents(110, 220)


def test_timbre_knows_a_spectrum_whatever_its_level() -> None:
    bright, dull = timbre(buzz(120, 0.6), RATE), timbre(buzz(120, 1.8, seed=1), RATE)
    again = timbre(0.3 * buzz(120, 0.6, seed=2), RATE)
    assert timbre_distance(again, bright) < 0.5 * timbre_distance(again, dull)
    assert timbre_distance(bright, bright) == 0
