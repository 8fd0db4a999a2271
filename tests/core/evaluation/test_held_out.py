"""Held-out clips take turns with words and voices, and the takes of a text differ in timing alone."""

from __future__ import annotations

import pytest
import torch

from unitalk_core.data.synthetic import VOICES, SyntheticClip, unseen_words
from unitalk_core.evaluation.held_out import TAKES, Result, draw_held_out, long_words

pytest.importorskip("espeakng_loader", reason="clips need espeak-ng: pip install espeakng-loader")


def test_texts_take_turns_with_words_and_voices(truths: list[SyntheticClip]) -> None:
    unseen_voices = {voice.name for voice in VOICES if voice.held_out}
    for i, one in enumerate(truths):
        text = i // TAKES
        assert one.held_out and set(one.say.split()) <= set(long_words())
        assert (set(one.say.split()) <= unseen_words()) == (text % 2 == 1)
        assert (one.voice in unseen_voices) == (text % 4 >= 2)


def test_takes_share_who_speaks_and_what_but_not_when(truths: list[SyntheticClip]) -> None:
    for first, second in zip(truths[::TAKES], truths[1::TAKES], strict=True):
        for name in ("say", "voice", "scene", "sound", "look", "pitch"):
            assert getattr(first, name) == getattr(second, name)
        assert torch.equal(first.reference, second.reference)
        assert [word.start for word in first.words] != [word.start for word in second.words]


def test_one_take_of_each_text_is_the_first_of_two(truths: list[SyntheticClip]) -> None:
    (alone,) = draw_held_out(0, 1)
    assert alone.say == truths[0].say and torch.equal(alone.waveform, truths[0].waveform)


def test_a_result_knows_what_of_it_is_unseen(true_results: list[Result]) -> None:
    assert [one.has_unseen_words for one in true_results[::TAKES]] == [False, True, False, True]
    assert [one.has_unseen_voice for one in true_results[::TAKES]] == [False, False, True, True]


def test_its_tracks_are_of_its_clip(true_results: list[Result]) -> None:
    pytest.importorskip("pocketsphinx", reason="the word judge: pip install pocketsphinx")
    one, other = true_results[0], true_results[2]
    assert len(one.opening) == len(one.level) == len(one.clip.frames)
    assert torch.equal(one.first, one.clip.frames[0])
    assert one.reference.clip.waveform.shape == (1, len(one.truth.reference))
    assert one.right_words > 0.5 > one.right_words_in(other)
