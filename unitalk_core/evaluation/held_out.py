"""Held-out clips in several takes, and what was made for each of them, with the tracks the judges look at."""

# f frames · h, w rows, columns of pixels · k coefficients · n samples

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

from torch import Tensor

from ..av import Clip
from ..data.speech import VOICES
from ..data.synthetic import SyntheticClip, spoken_words, synthesize_clip, unseen_words
from . import sync, voice, words

LONG_WORD = 2  # syllables that the word judge needs
TAKES = 2  # of one text, by one voice and face, in another timing


@cache
def long_words() -> tuple[str, ...]:
    """The words of the synthetic clips that the word judge can tell apart."""
    return tuple(word for word in spoken_words() if words.syllables(word) >= LONG_WORD)


def draw_held_out(seed: int, texts: int, takes: int = 1) -> list[SyntheticClip]:
    """Held-out clips of long words only, the takes of a text one after the other.

    Seen and unseen words in turn, seen and unseen voices two by two.
    """
    clips: list[SyntheticClip] = []
    index = 0
    while len(clips) < texts * takes:
        kind = len(clips) // takes % 4
        splits = {"words": ("seen", "unseen")[kind % 2], "voices": ("seen", "unseen")[kind // 2]}
        found = [synthesize_clip(seed, index, held_out=True, rendition=i, **splits) for i in range(takes)]
        if set(found[0].say.split()) <= set(long_words()):
            clips += found
        index += 1
    return clips


@dataclass(frozen=True)
class Result:
    """A clip and the truth it was made for."""

    clip: Clip
    truth: SyntheticClip

    @cached_property
    def words(self) -> list[str]:
        return words.split_words(self.truth.say)

    @property
    def has_unseen_words(self) -> bool:
        return set(self.words) <= unseen_words()

    @property
    def has_unseen_voice(self) -> bool:
        return any(one.held_out for one in VOICES if one.name == self.truth.voice)

    @cached_property
    def first(self) -> Tensor:
        """(h, w, 3) in 0..1, the true first frame."""
        return self.truth.frames[0].float() / 255

    @cached_property
    def waveform(self) -> Tensor:
        """(n,)"""
        return self.clip.waveform.mean(0)

    @cached_property
    def opening(self) -> Tensor:
        """(f,) of the mouth."""
        return sync.mouth_opening(self.clip.frames)

    @cached_property
    def level(self) -> Tensor:
        """(f,) of the sound."""
        frames = round(self.waveform.shape[-1] * self.clip.fps / self.clip.sample_rate)
        return sync.loudness(self.waveform, self.clip.sample_rate, float(self.clip.fps), frames)

    @cached_property
    def pitch(self) -> float:
        """Hz; NaN where there is none."""
        return voice.median_pitch(self.waveform, self.clip.sample_rate)

    @cached_property
    def timbre(self) -> Tensor:
        """(2, k)"""
        return voice.timbre(self.waveform, self.clip.sample_rate)

    @cached_property
    def reference(self) -> Result:
        """The voice that was given for it."""
        clip = self.truth.clip
        return Result(Clip(None, self.truth.reference[None], clip.fps, clip.sample_rate), self.truth)

    @cached_property
    def right_words(self) -> float:
        """Share of its words that its own sound says."""
        return self.right_words_in(self)

    def right_words_in(self, sound: Result) -> float:
        """Share of this clip's words that the sound of one says, among 50 choices each."""
        grammar = words.choices(self.words, long_words())
        heard = words.recognise(sound.waveform, sound.clip.sample_rate, grammar, len(self.words))
        return words.accuracy(self.words, heard)
