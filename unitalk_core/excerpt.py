"""The seconds of a recording that a model takes a voice from: its longest voiced stretch, or from a start.

c channels · n samples
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .config import ModelConfig
from .media import resample
from .pitch import HOP, SAMPLE_RATE, pitch_track

MIN_VOICE = 0.5  # seconds
SHORTEST, LONGEST = 3.0, 5.0  # seconds of speech that UniTalking was trained to take a voice from
SEARCHED = 60.0  # seconds of a recording in which a voiced stretch is looked for
PAUSE = 0.4  # seconds without pitch that do not end a stretch: consonants, breaths
MARGIN = 0.1  # seconds before and after what is voiced
SILENT = 1e-3  # peak; -60 dBFS


@dataclass(frozen=True)
class Excerpt:
    """waveform: (n,) of one channel. `text` says what was taken, for the user."""

    waveform: Tensor
    text: str


def voice_seconds(config: ModelConfig) -> float:
    """How much of a voice the model hears at most."""
    return min(LONGEST, config.reference_len / float(config.format.audio_rate)) or LONGEST


def take_voice(
    waveform: Tensor, from_rate: int, to_rate: int, longest: float = LONGEST, start: float | None = None
) -> Excerpt:
    """(c, n) -> at most `longest` seconds at `to_rate` in one channel; what is shorter is taken whole.

    start: seconds; None is the longest voiced stretch, with what stands around it where it is very short.
    ValueError for a sound that is silent or too short, after `start` too.
    """
    mono, seconds = waveform.mean(0), waveform.shape[1] / from_rate
    if (left := seconds - (start or 0)) < MIN_VOICE:
        after = f" after {start:g} s" if start else ""
        raise ValueError(f"a voice needs at least {MIN_VOICE:g} s of sound, got {max(0, left):.2f} s{after}")
    if not mono.abs().max() > SILENT:
        raise ValueError("the voice is silent; give a recording in which somebody speaks")
    note = ""
    if start is not None or seconds <= longest:
        first, last = start or 0.0, seconds
    elif (found := voiced_stretch(mono, from_rate)) is not None:
        first, last = found
    else:
        first, last, note = 0.0, seconds, "; nothing in it is voiced, so this is its start"
    last = min(last, first + longest)
    part = mono[round(first * from_rate) : round(last * from_rate)]
    text = f"{first:.2f}-{last:.2f} s of {seconds:.2f} s, {_form(len(waveform), from_rate)}"
    return Excerpt(resample(part[None], from_rate, to_rate)[0], f"{text} -> {_form(1, to_rate)}{note}")


def _form(channels: int, sample_rate: int) -> str:
    name = {1: "mono", 2: "stereo"}.get(channels, f"{channels} channels")
    return f"{sample_rate / 1000:g} kHz {name}"


def voiced_stretch(mono: Tensor, sample_rate: int) -> tuple[float, float] | None:
    """(n,) -> where the longest voiced stretch begins and ends, in seconds, `SHORTEST` at least if there is
    as much; None if nothing is voiced."""
    seconds = len(mono) / sample_rate
    searched = mono[: round(SEARCHED * sample_rate)]
    voiced = (~pitch_track(searched, sample_rate).isnan()).nonzero()[:, 0]
    if not len(voiced):
        return None
    step = HOP / SAMPLE_RATE
    breaks = (voiced.diff() * step > PAUSE).nonzero()[:, 0] + 1
    longest = max(voiced.tensor_split(breaks), key=lambda one: int(one[-1] - one[0]))
    first, last = float(longest[0]) * step - MARGIN, float(longest[-1] + 1) * step + MARGIN
    missing = max(0.0, SHORTEST - (last - first))
    first = max(0.0, min(first - missing / 2, seconds - SHORTEST))
    return first, min(seconds, max(last + missing / 2, first + SHORTEST))
