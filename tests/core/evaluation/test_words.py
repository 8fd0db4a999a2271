"""The word judge hears what espeak says, and does not hear it in another sentence."""

from __future__ import annotations

import pytest
import torch

from unitalk_core.evaluation.words import accuracy, choices, recognise, split_words, syllables

POOL = ["balcony", "potato", "telephone", "memory", "alphabet", "january", "gravity", "cinema", "holiday"]


def test_accuracy_counts_words_in_their_order() -> None:
    assert accuracy(["a", "b", "c"], ["a", "b", "c"]) == 1
    assert accuracy(["a", "b", "c"], ["a", "x", "c"]) == pytest.approx(2 / 3)
    assert accuracy(["a", "b"], ["b", "a"]) == 0.5
    assert accuracy(["a"], []) == 0
    with pytest.raises(ValueError, match="at least one reference word"):
        accuracy([], ["a"])


def test_words_and_syllables() -> None:
    assert split_words("The cat's, (Balcony)!") == ["the", "cat's", "balcony"]
    assert [syllables(word) for word in ("cat", "balcony", "Potato")] == [1, 3, 3]


def test_choices_hold_the_reference_and_are_the_same_each_time() -> None:
    got = choices(["cinema", "extra"], POOL, size=6)
    assert len(set(got)) == 6 and {"cinema", "extra"} <= set(got) <= {*POOL, "extra"}
    assert got == choices(["cinema", "extra"], POOL, size=6)
    with pytest.raises(ValueError, match="50 choices need a pool"):
        choices(["cinema"], POOL)


def test_a_grammar_without_words_is_refused() -> None:
    pytest.importorskip("pocketsphinx")
    with pytest.raises(ValueError, match="a grammar needs words and a count, got 0 words"):
        recognise(torch.zeros(16000), 16000, [], 2)


def test_it_recognises_spoken_words_and_only_those() -> None:
    pytest.importorskip("pocketsphinx", reason="the word judge: pip install pocketsphinx")
    pytest.importorskip("espeakng_loader", reason="clips need espeak-ng: pip install espeakng-loader")
    from unitalk_core.data.synthetic import spoken_words, synthesize_clip

    long = [word for word in spoken_words() if syllables(word) >= 2]
    clips = [synthesize_clip(2, i, frames=False, held_out=True) for i in range(14)]
    clips = [one for one in clips if set(one.say.split()) <= set(long)][:8]
    own, other = [], []
    for i, one in enumerate(clips):
        said, grammar = one.say.split(), choices(one.say.split(), long)
        heard = recognise(one.waveform, 16000, grammar, len(said))
        assert len(heard) in (0, len(said)) and set(heard) <= set(grammar)
        own.append(accuracy(said, heard))
        other.append(accuracy(said, recognise(clips[i - 1].waveform, 16000, grammar, len(said))))
    assert sum(own) / len(own) > 0.8
    assert sum(other) / len(other) < 0.3
    again = recognise(
        clips[0].waveform[None], 16000, choices(clips[0].say.split(), long), len(clips[0].say.split())
    )
    assert accuracy(clips[0].say.split(), again) == own[0]
