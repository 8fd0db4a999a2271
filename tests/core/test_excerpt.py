"""What a voice is taken from: the longest stretch in which somebody speaks, and the user hears which."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from unitalk_core.config import OVI_720, TINY, UNITALK
from unitalk_core.excerpt import take_voice, voice_seconds

RATE = 16000


def recording(*parts: tuple[str, float], rate: int = RATE) -> Tensor:
    """(1, n): "voice" is a tone with harmonics, "noise" is as loud without pitch, "pause" is silent."""
    sounds = []
    for kind, seconds in parts:
        times = torch.arange(int(seconds * rate)) / rate
        tone = torch.stack([torch.sin(2 * math.pi * 130 * k * times) / k for k in range(1, 12)]).sum(0)
        noise = torch.randn(len(times), generator=torch.Generator().manual_seed(0))
        sounds.append({"voice": 0.1 * tone, "noise": 0.1 * noise, "pause": 0 * times}[kind])
    return torch.cat(sounds)[None]


def seconds_of(text: str) -> tuple[float, float]:
    first, last = text.split(" s of", maxsplit=1)[0].split("-")
    return float(first), float(last)


@pytest.mark.parametrize("rate", [8000, 44100])
def test_the_longest_voiced_stretch_is_taken_and_short_pauses_do_not_end_it(rate):
    parts = (("voice", 1.0), ("noise", 2.0), ("voice", 2.0), ("pause", 0.2), ("voice", 1.5), ("noise", 3.0))
    taken = take_voice(recording(*parts, rate=rate), rate, RATE)
    first, last = seconds_of(taken.text)
    assert abs(first - 3.0) < 0.25 and abs(last - 6.7) < 0.25
    assert abs(len(taken.waveform) / RATE - (last - first)) < 0.02


def test_what_is_too_long_is_cut_and_what_is_very_short_gets_its_surroundings():
    long = take_voice(recording(("pause", 1.0), ("voice", 9.0)), RATE, RATE)
    assert seconds_of(long.text)[1] - seconds_of(long.text)[0] == pytest.approx(5)
    short = take_voice(recording(("noise", 4.0), ("voice", 1.0), ("noise", 4.0)), RATE, RATE)
    first, last = seconds_of(short.text)
    assert last - first == pytest.approx(3, abs=0.02) and first < 4.0 and last > 5.0


def test_a_voice_that_fits_is_taken_whole_and_bit_by_bit():
    voice = recording(("noise", 1.0), ("voice", 2.0))
    taken = take_voice(voice, RATE, RATE)
    assert torch.equal(taken.waveform, voice[0])
    assert taken.text == "0.00-3.00 s of 3.00 s, 16 kHz mono -> 16 kHz mono"


@pytest.mark.parametrize(("channels", "name"), [(1, "mono"), (2, "stereo"), (6, "6 channels")])
def test_any_rate_and_number_of_channels_becomes_what_the_model_hears(channels, name):
    taken = take_voice(recording(("voice", 4.0), rate=48000).expand(channels, -1), 48000, 44100, 4.0)
    assert taken.waveform.shape == (4 * 44100,)
    assert taken.text.endswith(f"48 kHz {name} -> 44.1 kHz mono")


def test_a_start_is_kept_to():
    voice = recording(("voice", 9.0))
    assert seconds_of(take_voice(voice, RATE, RATE, start=2.5).text) == (2.5, 7.5)
    assert seconds_of(take_voice(voice, RATE, RATE, start=8.0).text) == (8, 9)
    with pytest.raises(ValueError, match=r"at least 0.5 s of sound, got 0.30 s after 8.7 s"):
        take_voice(voice, RATE, RATE, start=8.7)


def test_where_nothing_is_voiced_the_start_is_taken_and_said():
    taken = take_voice(recording(("noise", 8.0)), RATE, RATE)
    assert seconds_of(taken.text) == (0, 5)
    assert taken.text.endswith("nothing in it is voiced, so this is its start")


def test_silence_and_a_moment_are_refused():
    with pytest.raises(ValueError, match="the voice is silent"):
        take_voice(torch.zeros(1, RATE), RATE, RATE)
    with pytest.raises(ValueError, match=r"at least 0.5 s of sound, got 0.25 s"):
        take_voice(recording(("voice", 0.25)), RATE, RATE)


def test_a_model_hears_no_more_than_it_was_trained_on():
    assert voice_seconds(UNITALK) == 5
    assert voice_seconds(TINY) == pytest.approx(4.096)
    assert voice_seconds(OVI_720) == 5  # it takes no voice; the pipeline says so
