"""The shipped miniature, as users get it: what it says is understood, and its mouth moves with it."""

from __future__ import annotations

from statistics import mean

import pytest

from unitalk_core.evaluation.sync import loudness, mouth_opening, sync
from unitalk_core.evaluation.words import accuracy, choices, recognise
from unitalk_core.pipeline import Request, generate, load_bundle

SAID = (
    "wonderful holiday", "balcony potato", "telephone memory", "beautiful orchestra", "alphabet january",
    "gravity cinema",
)  # fmt: skip
POOL = [word for line in SAID for word in line.split()]


@pytest.fixture(scope="module")
def clips():
    bundle = load_bundle("tiny")
    return [generate(bundle, Request(say=say, seconds=2.44, seed=i)) for i, say in enumerate(SAID)]


def test_what_it_says_is_understood(clips):
    pytest.importorskip("pocketsphinx", reason="the word judge: pip install pocketsphinx")
    heard = [recognise(one.waveform, 16000, choices(POOL, POOL, len(POOL)), 2) for one in clips]
    own = mean(accuracy(say.split(), words) for say, words in zip(SAID, heard, strict=True))
    other = mean(accuracy(say.split(), words) for say, words in zip(SAID, heard[1:] + heard[:1], strict=True))
    assert own > 0.6
    assert other < 0.3


def test_its_mouth_moves_with_its_sound(clips):
    openings = [mouth_opening(one.frames) for one in clips]
    levels = [loudness(one.waveform[0], 16000, 25, len(one.frames)) for one in clips]
    own = mean(map(sync, openings, levels))
    assert own > 0.3
    assert own > mean(map(sync, openings, levels[1:] + levels[:1])) + 0.15
