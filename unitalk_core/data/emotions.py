"""Feelings that are heard and seen at once: each moves pitch, pace and energy, and brows, lids and lips."""

from __future__ import annotations

import random
from dataclasses import dataclass

NEUTRAL_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class Emotion:
    """word: as captions say it, "" for none.

    pitch, pitch_range: espeak points more or less; pace: factor on the speed; energy: dB;
    opening: factor on the mouth; brow: how far it rises; slant: inner ends down, or up below 0;
    lids: factor on how far the eyes open; smile: corners of the mouth up, or down below 0.
    """

    word: str
    pitch: int = 0
    pitch_range: int = 0
    pace: float = 1.0
    energy: float = 0.0
    opening: float = 1.0
    brow: float = 0.0
    slant: float = 0.0
    lids: float = 1.0
    smile: float = 0.0

    def colour(self, description: str) -> str:
        """ "a woman with ..." -> "a sad woman with ..." """
        if not self.word:
            return description
        article = "an" if self.word[0] in "aeiou" else "a"
        return f"{article} {self.word} {description.removeprefix('a ')}"


NEUTRAL = Emotion(word="")
EMOTIONS: tuple[Emotion, ...] = (
    Emotion(word="happy", pitch=5, pitch_range=14, pace=1.04, energy=1.0, brow=0.6, lids=0.9, smile=0.10),
    Emotion(
        word="sad", pitch=-6, pitch_range=-20, pace=0.92, energy=-5.0, opening=0.82,
        slant=-1.0, lids=0.8, smile=-0.10,
    ),
    Emotion(
        word="angry", pitch=1, pitch_range=6, pace=1.06, energy=4.0, opening=1.08,
        brow=-0.6, slant=1.0, lids=0.88, smile=-0.06,
    ),
    Emotion(
        word="surprised", pitch=10, pitch_range=22, energy=2.0, opening=1.1, brow=2.2, lids=1.15,
    ),
)  # fmt: skip


def draw_emotion(rng: random.Random) -> Emotion:
    """None half the time, else one of `EMOTIONS`."""
    return NEUTRAL if rng.random() < NEUTRAL_SHARE else rng.choice(EMOTIONS)
