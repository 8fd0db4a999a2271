"""The pair of streams and the arithmetic of a clip on one clock."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from unitalk_core.av import AV, Clip, draw_noise, draw_takes, same_seconds
from unitalk_core.config import OVI_FORMAT, TINY_FORMAT, WAN_FORMAT

FORMATS = pytest.mark.parametrize("clip", [WAN_FORMAT, OVI_FORMAT, TINY_FORMAT])


def test_a_pair_maps_each_stream_and_leaves_an_absent_one_out():
    assert AV(2, 3).map(lambda a, b: a * b, AV(10, 100)) == AV(20, 300)
    assert AV(2, None).map(lambda a, b: a + b, AV(1, 1)) == AV(3, None)
    assert AV(None, 5).present() == [5]


def test_five_seconds_are_the_lengths_of_the_references():
    assert WAN_FORMAT.latent_shape(121, 1280, 704) == AV((1, 48, 31, 44, 80), (1, 40, 217))
    assert WAN_FORMAT.samples(121) == 222_208
    assert OVI_FORMAT.audio_latents(121) == 157
    assert TINY_FORMAT.latent_shape(61, 64, 64, batch=3) == AV((3, 48, 16, 4, 4), (3, 20, 76))


@FORMATS
def test_sound_ends_within_one_frame_of_the_picture(clip):
    for frames in range(1, clip.max_frames + 1, clip.frame_stride):
        gap = frames / clip.fps - Fraction(clip.samples(frames), clip.sample_rate)
        assert 0 <= gap < 1 / clip.fps


@FORMATS
def test_a_position_of_sound_is_the_same_moment_of_the_picture(clip):
    seconds = 2.0
    assert seconds * clip.audio_rate * clip.rope_scale == pytest.approx(seconds * clip.video_rate)


def test_the_clock_of_the_sound_is_that_of_ovi():
    assert OVI_FORMAT.rope_scale == pytest.approx(0.19676, abs=1e-5)


@FORMATS
def test_every_length_that_is_chosen_is_legal_and_the_nearest(clip):
    longest = clip.max_frames / float(clip.fps)
    for tenths in range(1, int(longest * 10) + 1):
        frames = clip.check_frames(clip.frames_for(tenths / 10))
        assert abs(frames / float(clip.fps) - tenths / 10) <= clip.frame_stride / 2 / float(clip.fps) + 1e-9


@pytest.mark.parametrize("seconds", [0, -1, 1000, float("nan"), float("inf")])
def test_a_length_that_cannot_be_is_one_sentence(seconds):
    with pytest.raises(ValueError, match=r"seconds must be above 0 and at most 4\.84"):
        TINY_FORMAT.frames_for(seconds)


@pytest.mark.parametrize(
    ("frames", "words"),
    [(0, "use 1 or 5"), (60, "use 57 or 61"), (122, r"at most 121 \(5\.04 s\)")],
)
def test_a_number_of_frames_that_cannot_be_names_the_nearest(frames, words):
    with pytest.raises(ValueError, match=words):
        WAN_FORMAT.check_frames(frames)


def test_a_size_that_cannot_be_names_the_nearest():
    with pytest.raises(ValueError, match="multiples of 32, got 100 x 64; use 96 x 64"):
        TINY_FORMAT.latent_shape(5, 100, 64)
    with pytest.raises(ValueError, match="use 32 x 32"):
        TINY_FORMAT.check_size(0, -32)


def test_a_seed_draws_the_same_noise_whatever_the_other_stream_is():
    shape = TINY_FORMAT.latent_shape(61, 64, 64)
    wide = TINY_FORMAT.latent_shape(61, 96, 64)
    one, other = draw_noise(shape, AV(1, 7)), draw_noise(wide, AV(2, 7))
    assert torch.equal(one.audio, other.audio)
    assert torch.equal(one.video, draw_noise(shape, AV(1, 8)).video)
    assert draw_noise(replace(shape, video=None), AV(1, 7)).video is None


def test_a_clip_lasts_as_long_as_its_picture_or_else_its_sound():
    frames, waveform = torch.zeros(50, 2, 2, 3), torch.zeros(1, 8000)
    assert Clip(frames, waveform, Fraction(25), 16000).seconds == 2.0
    assert Clip(None, waveform, Fraction(25), 16000).seconds == 0.5
    assert Clip(None, None, Fraction(25), 16000).seconds == 0.0


def test_each_take_of_a_batch_is_the_noise_of_one_clip_with_its_own_seeds() -> None:
    shape, single = AV((3, 4, 2, 3, 3), (3, 5, 7)), AV((1, 4, 2, 3, 3), (1, 5, 7))
    noise = draw_takes(shape, AV(10, 2**64 - 1), [0, 1, 4])
    for row, seeds in enumerate([AV(10, 2**64 - 1), AV(11, 0), AV(14, 3)]):
        alone = draw_noise(single, seeds)
        assert torch.equal(noise.video[row : row + 1], alone.video)
        assert torch.equal(noise.audio[row : row + 1], alone.audio)
    assert draw_takes(AV(None, (2, 5, 7)), AV(0, 0), range(2)).video is None


@pytest.mark.parametrize(("frames", "latents"), [(7, 31), (5, 21), (31, 217), (3, 2)])
def test_windows_of_a_picture_share_out_the_sound_without_a_gap(frames: int, latents: int) -> None:
    whole = [one for i in range(frames) for one in same_seconds([i], frames, latents)]
    assert whole == same_seconds(range(frames), frames, latents) == list(range(latents))
    assert same_seconds([frames - 1, 0], frames, latents)[-1] == same_seconds([0], frames, latents)[-1]
