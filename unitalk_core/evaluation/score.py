"""How well picture and sound of one clip go together, in a few numbers: what its takes are compared by.

b takes · f frames · h, w rows, columns · c channels · n samples
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from torch import Tensor

from ..av import Clip
from ..data.vocabulary import spoken_words
from ..media import match_lengths
from ..subtitles import texts_of
from . import sync, words
from .held_out import LONG_WORD

SEEN = {"motion": sync.motion, "mouth": sync.mouth_opening}
LEAST = 12  # frames: in fewer, tracks that have nothing to do with each other fit at some lag
SMALLEST = 16  # pixels of a side
SILENCE = -100.0  # dBFS


@dataclass(frozen=True)
class Score:
    """Of one clip.

    sync: r of what is seen and the loudness, -1..1, 0 where one of them does not change; lag: frames by which
    the picture comes after the sound where they fit best; loudness: dBFS of the seconds with speech.
    """

    sync: float
    lag: int
    loudness: float

    def __str__(self) -> str:
        late = "before" if self.lag < 0 else "after"
        return (
            f"sync {self.sync:.2f}, picture {abs(self.lag)} frames {late} the sound, {self.loudness:.1f} dBFS"
        )


def score(clip: Clip, seen: str = "motion") -> Score:
    """The numbers of a clip with picture and sound, as far as both go.

    seen: `motion` of the lower half of any picture, or how open the `mouth` of a portrait framed as the
    miniature's is. Neither is LSE-C or LSE-D. ValueError below twelve frames or 16 pixels of a side.
    """
    clip = match_lengths(clip, "trim")
    frames = len(clip.frames)
    if frames < LEAST:
        raise ValueError(f"a score needs {LEAST} frames with sound, got {frames}; give a longer clip")
    rows, columns = clip.frames.shape[1:3]
    if min(rows, columns) < SMALLEST:
        raise ValueError(f"a score needs pictures of {SMALLEST} x {SMALLEST}, got {columns} x {rows}")
    track = SEEN[seen](clip.frames)
    level = sync.loudness(clip.waveform.mean(0), clip.sample_rate, float(clip.fps), frames)
    lag = sync.best_lag(track, level, min(sync.MAX_LAG, frames // 3))
    return Score(sync.sync(track, level), lag, decibels(level[sync.speech_window(level)]))


def decibels(level: Tensor) -> float:
    """(f,) root mean squares -> dB beside a full-scale square wave; silence is -100."""
    power = float(level.square().mean())
    return max(SILENCE, 10 * math.log10(power)) if power > 0 else SILENCE


def best(scores: list[Score]) -> int:
    """The place of the highest sync; of equals the first."""
    return max(range(len(scores)), key=lambda i: scores[i].sync)


def takes_of(frames: Tensor, waveforms: Sequence[Tensor], fps: Fraction, sample_rate: int) -> list[Clip]:
    """(b f, h, w, 3), take after take, and (c, n) of each -> the takes; ValueError unless they divide."""
    takes = len(waveforms)
    if len(frames) % takes:
        raise ValueError(
            f"{len(frames)} frames are not {takes} takes of one length; decode both streams of one latent"
        )
    return [
        Clip(seen, heard, fps, sample_rate)
        for seen, heard in zip(frames.split(len(frames) // takes), waveforms, strict=True)
    ]


def words_right(clip: Clip, speech: str) -> tuple[int, int]:
    """(right, of): words of the speech with two syllables or more that are heard, each among fifty choices.

    speech: what is said, or a finished prompt with it. ValueError for a speech without such words;
    ModuleNotFoundError without pocketsphinx.
    """
    words.check_installed()
    said = words.split_words(" ".join(texts_of(speech)))
    judged = [word for word in said if words.syllables(word) >= LONG_WORD]
    if not judged:
        raise ValueError("words are judged that are English and have two syllables or more; here is none")
    grammar = words.choices(said, spoken_words())
    heard = words.recognise(clip.waveform, clip.sample_rate, grammar, len(said))
    return words.word_hits(judged, [word for word in heard if word in judged]), len(judged)
