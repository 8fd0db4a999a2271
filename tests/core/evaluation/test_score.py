"""The score of a clip knows its own sound, says how late the picture is, and says why it judges nothing."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from unitalk_core.av import Clip
from unitalk_core.data.synthetic import synthesize_clip
from unitalk_core.evaluation import words
from unitalk_core.evaluation.score import SEEN, Score, best, score, takes_of, words_right
from unitalk_core.evaluation.sync import motion

RATE = 16000


@pytest.fixture(scope="module")
def spoken() -> list[Clip]:
    pytest.importorskip("espeakng_loader", reason="synthetic clips: pip install espeakng-loader")
    return [synthesize_clip(0, i, held_out=True).clip for i in range(2)]


def noisy(frames: int = 40, fps: int = 25, late: int = 0, seed: int = 0) -> Clip:
    """A picture that opens as far as its sound is loud, `late` frames after it."""
    draw = torch.Generator().manual_seed(seed)
    level = torch.rand(frames, generator=draw).square()
    opened = level.roll(late)[:, None, None, None]
    sound = torch.randn(frames * RATE // fps, generator=draw) * level.repeat_interleave(RATE // fps) / 4
    return Clip(opened.expand(frames, 16, 18, 3), sound[None].clamp(-1, 1), Fraction(fps), RATE)


@pytest.mark.parametrize("seen", SEEN)
def test_a_speaking_face_fits_its_own_sound_better_than_another(spoken, seen):
    other, one = spoken
    own, foreign = score(one, seen), score(replace(one, waveform=other.waveform), seen)
    assert own.sync > 0.4 and own.sync > foreign.sync + 0.2
    assert abs(own.lag) <= 2


@pytest.mark.parametrize("late", [-5, 0, 6])
def test_the_lag_is_how_late_the_picture_is(late):
    found = score(noisy(100, late=late))
    assert abs(found.lag - late) <= 1
    assert ("before" if late < 0 else "after") in str(found)


def test_motion_is_seen_in_the_lower_half_alone_at_any_size():
    frames = torch.zeros(20, 7, 5, 3)
    frames[10, :3] = 1
    assert motion(frames).equal(torch.zeros(20))
    frames[10] = 1
    assert motion(frames).nonzero()[:, 0].tolist() == [10]
    large = frames.repeat_interleave(40, 1).repeat_interleave(40, 2)
    torch.testing.assert_close(motion(large), motion(frames))


def test_what_stands_still_or_is_silent_has_no_sync():
    clip = noisy()
    still, silent = replace(clip, frames=clip.frames[:1].expand(40, 16, 18, 3)), torch.zeros(2, 40 * 640)
    assert score(still) == Score(0.0, 0, score(clip).loudness)
    assert score(replace(clip, waveform=silent)) == Score(0.0, 0, -100.0)


def test_loudness_is_that_of_the_seconds_with_speech():
    clip = noisy()
    quiet = torch.cat([clip.waveform * 0.1, torch.zeros(1, 640 * 40)], dim=1)
    both = Clip(torch.cat([clip.frames, clip.frames]), quiet, clip.fps, RATE)
    assert score(both).loudness == pytest.approx(score(clip).loudness - 20, abs=1)


def test_the_longer_stream_is_judged_as_far_as_the_other_goes():
    clip = noisy()
    longer = replace(clip, waveform=torch.cat([clip.waveform, torch.ones(1, RATE)], dim=1))
    assert score(longer).sync == pytest.approx(score(clip).sync, abs=1e-6)


def test_a_clip_that_is_too_short_or_too_small_gets_a_sentence():
    with pytest.raises(ValueError, match="a score needs 12 frames with sound, got 11; give a longer clip"):
        score(noisy(11))
    with pytest.raises(ValueError, match="a score needs pictures of 16 x 16, got 18 x 15"):
        score(replace(noisy(), frames=noisy().frames[:, 1:]))


def test_the_best_take_has_the_highest_sync_and_is_the_first_of_equals():
    assert best([Score(-0.2, 0, -20), Score(0.5, 9, -30), Score(0.5, 0, -20)]) == 1


def test_takes_lie_one_behind_the_other():
    clips = [noisy(seed=seed) for seed in range(3)]
    frames, sounds = torch.cat([one.frames for one in clips]), [one.waveform for one in clips]
    for one, other in zip(clips, takes_of(frames, sounds, Fraction(25), RATE), strict=True):
        assert one.frames.equal(other.frames) and one.waveform.equal(other.waveform)
    with pytest.raises(ValueError, match="119 frames are not 3 takes of one length"):
        takes_of(frames[1:], sounds, Fraction(25), RATE)


def test_words_of_two_syllables_are_counted_where_they_are_heard(spoken):
    pytest.importorskip("pocketsphinx", reason="the word judge: pip install pocketsphinx")
    pytest.importorskip("espeakng_loader", reason="synthetic clips: pip install espeakng-loader")
    truth = synthesize_clip(0, 0, held_out=True)
    long = [word for word in truth.say.split() if words.syllables(word) > 1]
    right, judged = words_right(truth.clip, f"a scene <S>{truth.say}<E>")
    assert judged == len(long)
    assert right > judged / 2
    assert words_right(spoken[1], truth.say)[0] < right
    with pytest.raises(ValueError, match="two syllables or more; here is none"):
        words_right(truth.clip, "hi, you")
