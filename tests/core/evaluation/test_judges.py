"""Each judge prefers what is a clip's own, and knows what chance would score."""

from __future__ import annotations

from dataclasses import replace
from statistics import mean

import pytest
import torch

from unitalk_core.evaluation.held_out import TAKES, Result
from unitalk_core.evaluation.judges import (
    NO_PITCH,
    Row,
    decibels,
    face_of,
    others,
    picture_of,
    scene_of,
    sync_of,
    twin,
    voice_of,
)

pytest.importorskip("espeakng_loader", reason="clips need espeak-ng: pip install espeakng-loader")


def values(rows: list[Row]) -> list[float]:
    return [row.value for row in rows]


def with_sound_of(own: Result, other: Result) -> Result:
    return Result(replace(own.clip, waveform=other.clip.waveform), own.truth)


def test_a_clip_is_shuffled_with_other_texts_and_twinned_with_its_own(true_results: list[Result]) -> None:
    for i, own in enumerate(true_results):
        assert {one.truth.say for one in others(true_results, i, 9)} == {
            one.truth.say for one in true_results if one.truth.say != own.truth.say
        }
        assert len(others(true_results, i, 2)) == 2
        assert twin(true_results, i).truth.say == own.truth.say
        assert twin(true_results, i).truth.rendition != own.truth.rendition


def test_a_twin_is_the_next_take_of_the_text_however_many_there_are(monkeypatch) -> None:
    monkeypatch.setattr("unitalk_core.evaluation.judges.TAKES", 3)
    assert [twin(range(6), i) for i in range(6)] == [1, 2, 0, 4, 5, 3]


def test_true_clips_fit_their_own_sound_best(true_results: list[Result]) -> None:
    found = sync_of(true_results, true_results)
    own, same = mean(values(found["sync.r"])), mean(values(found["sync.same_text_r"]))
    assert own > 0.6 and own > same + 0.3
    assert values(found["sync.own_wins"]) == [1.0] * 8
    assert mean(values(found["sync.lag_control"])) > 0.7
    assert mean(row.baseline for row in found["sync.lag_control"]) < 0.3
    assert all(row.ceiling == row.value for rows in found.values() for row in rows)


def test_sounds_of_the_other_take_lose_against_it(true_results: list[Result]) -> None:
    swapped = [with_sound_of(own, twin(true_results, i)) for i, own in enumerate(true_results)]
    found = sync_of(swapped, true_results)
    assert values(found["sync.own_wins"]) == [0.0] * 8
    assert mean(values(found["sync.lag_control"])) < 0.2
    assert mean(row.ceiling for row in found["sync.own_wins"]) == 1


def test_a_mouth_that_keeps_time_by_the_text_wins_half_the_time(true_results: list[Result]) -> None:
    """Both takes of a text have the mouth of the first."""
    first = [true_results[i - i % TAKES] for i in range(8)]
    stiff = [with_sound_of(first[i], own) for i, own in enumerate(true_results)]
    assert mean(values(sync_of(stiff, true_results)["sync.own_wins"])) == 0.5


def test_a_picture_that_is_late_fits_and_is_out_of_step(true_results: list[Result]) -> None:
    late = [Result(replace(one.clip, frames=one.clip.frames.roll(5, 0)), one.truth) for one in true_results]
    assert mean(values(sync_of(late, true_results)["sync.lag_within_2"])) < 0.3


def test_voices_are_judged_seen_and_unseen_apart(true_results: list[Result]) -> None:
    found = voice_of(true_results, true_results)
    assert {name: len(rows) for name, rows in found.items()} == dict.fromkeys(found, 4)
    for split in ("", "_unseen"):
        pitch, tone = found[f"voice.f0_cents{split}"], found[f"voice.timbre{split}"]
        assert mean(values(pitch)) < 120 < mean(row.baseline for row in pitch)
        assert mean(values(tone)) > 0.7


def test_a_silent_clip_has_no_pitch_and_the_largest_error(true_results: list[Result]) -> None:
    mute = [
        Result(replace(one.clip, waveform=torch.zeros_like(one.clip.waveform)), one.truth)
        for one in true_results
    ]
    assert set(values(voice_of(mute, true_results)["voice.f0_cents"])) == {NO_PITCH}


def test_a_face_is_found_among_the_others(true_results: list[Result]) -> None:
    found = face_of(true_results, true_results)
    assert found["face.identity"] == [Row(1.0, 1 / 4, 1.0)] * 8
    exchanged = [Result(others(true_results, i, 1)[0].clip, one.truth) for i, one in enumerate(true_results)]
    found = face_of(exchanged, true_results)
    assert values(found["face.identity"]) == [0.0] * 8
    assert max(values(found["face.first_frame_db"])) < 20


def test_a_face_from_words_is_nearer_to_its_own_than_to_others(true_results: list[Result]) -> None:
    found = scene_of(true_results, true_results)["face.as_asked"]
    assert found == [Row(1.0, 0.5, 1.0)] * 8
    exchanged = [Result(others(true_results, i, 1)[0].clip, one.truth) for i, one in enumerate(true_results)]
    assert all(row.value < 1 for row in scene_of(exchanged, true_results)["face.as_asked"])


def test_a_kept_picture_is_better_than_a_still(true_results: list[Result]) -> None:
    rounded = [
        Result(replace(one.clip, frames=(one.clip.frames * 15).round() / 15), one.truth)
        for one in true_results
    ]
    for row in picture_of(rounded, true_results)["video_db"]:
        assert 30 < row.value < 40 and row.baseline < row.value


def test_decibels_are_of_the_peak() -> None:
    assert decibels(torch.full((4,), 0.6), torch.full((4,), 0.5)) == pytest.approx(20, abs=1e-3)
    assert decibels(torch.ones(4), torch.ones(4)) == pytest.approx(100)
