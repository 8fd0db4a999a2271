"""A seam is told from a jump, and continuations are measured beside jumps, chance and the truth."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from unitalk_core.data.synthetic import SyntheticClip
from unitalk_core.evaluation import continuation as module
from unitalk_core.evaluation.continuation import Seam, continuation, sound_steps, usual
from unitalk_core.models.mel import MEL_16K, Mel
from unitalk_core.pipeline import Bundle

pytest.importorskip("pocketsphinx", reason="the word judge: pip install pocketsphinx")


def test_a_cut_into_another_clip_is_a_jump_and_a_place_inside_one_is_not(truths: list[SyntheticClip]) -> None:
    mel, dice = Mel(MEL_16K), random.Random(0)
    cuts, places = [], []
    for truth, other in zip(truths, truths[2:] + truths[:2], strict=True):  # another text
        into = Seam.at(other.clip, len(other.frames) // 2).new
        cuts.append(Seam.between(truth.clip, into).smooth(mel))
        places += [Seam.at(truth.clip, dice.randrange(1, len(truth.frames))).smooth(mel) for _ in range(20)]
    pictures, sounds = (sum(part) / len(places) for part in zip(*places, strict=True))
    assert pictures > 0.85 and sounds > 0.85
    assert [picture for picture, _ in cuts] == [0] * len(cuts)


def test_a_click_is_a_jump_of_the_sound_alone(truths: list[SyntheticClip]) -> None:
    seam = Seam.at(truths[0].clip, len(truths[0].frames) - 3)  # in the silence behind the words
    assert seam.smooth(Mel(MEL_16K)) == (1, 1)
    waveform = seam.clip.waveform.clone()
    waveform[:, seam.sample : seam.sample + 3] = 1
    assert replace(seam, clip=replace(seam.clip, waveform=waveform)).smooth(Mel(MEL_16K)) == (1, 0)


def test_the_parts_of_a_seam_make_the_clip(truths: list[SyntheticClip]) -> None:
    seam = Seam.at(truths[0].clip, 7)
    assert (len(seam.old.frames), seam.old.waveform.shape[1]) == (7, 7 * 640)
    again = Seam.between(seam.old, seam.new)
    assert torch.equal(again.clip.frames, seam.clip.frames)
    assert torch.equal(again.clip.waveform, seam.clip.waveform)
    assert (again.frame, again.sample) == (seam.frame, seam.sample)


def test_a_step_is_usual_among_those_that_are_not_near() -> None:
    steps = torch.arange(100.0)
    assert [usual(steps, place) for place in (0, 50, 93, 99)] == [1, 1, 1, 0]
    steps[40:45] = 1000.0
    assert usual(steps, 42, reach=2) == 0
    assert sound_steps(torch.tensor([[0.0, 0, 0, 5, 5, 5, 5]]), 1).tolist() == [0, 5, 5, 5, 0, 0]


@pytest.mark.slow
def test_continuations_are_measured_and_counted(
    tiny_bundle: Bundle, truths: list[SyntheticClip], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IN_A_ROW", 2)
    done: list[tuple[int, int]] = []
    measures = continuation(tiny_bundle, truths[:4:2], 0, lambda *at: done.append(at))
    assert done == [(2, 3), (3, 3)]  # two in a row from the first clip, one from the second
    parts = ("picture_seam", "sound_seam", "words", "words_eighth")
    assert list(measures) == [f"continue.{part}" for part in parts]
    for name, one in measures.items():
        assert 0 <= one.low <= one.value <= one.high <= 1, name
    assert measures["continue.picture_seam"].baseline == 0
    assert measures["continue.words"].ceiling > 0.7 > measures["continue.words"].baseline
    assert measures["continue.words"].threshold is None
    assert measures["continue.words_eighth"].threshold == 0.75
