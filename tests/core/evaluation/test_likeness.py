"""Likeness: the person's own clips score best, other people's worse."""

from __future__ import annotations

import pytest
import torch

from unitalk_core.data.synthetic import synthesize_clip, synthesize_person
from unitalk_core.evaluation.likeness import Look, likeness, other_people

pytest.importorskip("espeakng_loader")


@pytest.fixture(scope="module")
def strangers() -> list[Look]:
    return other_people(0)[:9]


def test_a_persons_clips_are_more_like_them_than_a_strangers(strangers):
    looks = [Look.of(synthesize_person(3, i, 0).clip) for i in range(4)]
    person = Look.mean(looks[:3])
    identity, decibels, farther, distance = looks[3].likeness(person, strangers)
    assert (identity, farther) == (1.0, 1.0)
    other = Look.of(synthesize_clip(0, 50, held_out=True).clip)
    assert other.decibels(person) < decibels - 5
    assert other.distance(person) > distance


def test_a_look_is_as_like_as_can_be_to_itself(strangers):
    one = strangers[0]
    assert one.decibels(one) == pytest.approx(100)
    assert one.distance(one) == 0
    assert torch.equal(Look.mean([one, one]).picture, one.picture)


def test_too_few_clips_are_refused(tmp_path):
    with pytest.raises(ValueError, match="likeness needs at least 4 clips, got 3"):
        likeness(tmp_path, None, clips=3)
