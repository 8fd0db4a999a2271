"""The words of synthetic clips, and which of them training never has."""

from __future__ import annotations

import hashlib
import random
from functools import cache
from pathlib import Path

HELD_OUT_WORDS = 200


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


@cache
def spoken_words() -> tuple[str, ...]:
    """All words of the clips: common English words of CMUdict, nine in ten of two or more syllables."""
    return tuple((Path(__file__).parent / "words.txt").read_text(encoding="utf-8").split())


@cache
def unseen_words() -> frozenset[str]:
    """The 200 words that training never hears: the smallest hashes among those of six letters and more."""
    long = [word for word in spoken_words() if len(word) >= 6]
    return frozenset(sorted(long, key=lambda word: _digest(f"unseen {word}"))[:HELD_OUT_WORDS])


def is_held_out(text: str) -> bool:
    """Whether a text (or the caption of a face) is kept from training: one in eight, by hash."""
    return _digest(f"held out {text}") % 8 == 0


def draw_text(rng: random.Random, vocabulary: tuple[str, ...], held_out: bool | None) -> str:
    """One to five random words, at most 38 letters. held_out: which side of `is_held_out`; None is both."""
    while True:
        count = rng.choices((1, 2, 3, 4, 5), (0.10, 0.25, 0.35, 0.20, 0.10))[0]
        text = " ".join(rng.sample(vocabulary, count))
        if len(text) <= 38 and held_out in (None, is_held_out(text)):
            return text
