"""Latents in files: made once, complete, and read back as examples."""

from __future__ import annotations

import pytest
import torch

from unitalk_core.config import TINY
from unitalk_core.data.synthetic import synthesize_clip
from unitalk_core.training.alignment import spoken_at
from unitalk_core.training.latents import (
    LatentMaker,
    Shards,
    mouth_area,
    mouth_mask,
    punctuated,
)

pytest.importorskip("espeakng_loader")


@pytest.fixture
def maker(tiny_bundle) -> LatentMaker:
    return LatentMaker(audio_codec=tiny_bundle.audio_codec, video_vae=tiny_bundle.video_vae, shard_size=1)


def test_a_clip_becomes_latents_of_the_length_the_clock_says(maker, tmp_path):
    maker.make(tmp_path, 1)
    shards = Shards.read(tmp_path)
    item = shards[0]
    frames = len(synthesize_clip(0, 0, frames=False).mouth)
    shape = TINY.format.latent_shape(frames, 64, 64)
    assert item.video.shape == shape.video[1:]
    assert item.audio.shape == shape.audio[1:]
    assert item.reference.shape[1] <= TINY.streams.audio.reference_len
    assert shards.shapes == [(*item.video.shape[1:], item.audio.shape[1])]
    assert len({text.prompt for text in item.texts.values()}) == len(shards.forms(0)) == 12
    for text in item.texts.values():
        assert (spoken_at(text.prompt, item.words, item.phones, item.audio.shape[1], TINY) >= 0).any()


def test_shards_that_are_there_are_not_made_again(maker, tmp_path):
    maker.make(tmp_path, 2)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    maker.make(tmp_path, 2)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


def test_sound_alone_has_no_picture(maker, tmp_path):
    LatentMaker(audio_codec=maker.audio_codec, shard_size=1).make(tmp_path, 1)
    shards = Shards.read(tmp_path)
    assert shards[0].video is None and shards[0].mouth is None
    assert shards.shapes[0][:3] == (0, 0, 0)


def test_an_empty_folder_gets_a_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no latents; make them first"):
        Shards.read(tmp_path)


def test_the_mask_holds_the_mouth():
    clip = synthesize_clip(0, 3, frames=False)
    left, top, right, bottom = mouth_area(clip)
    assert left < right and top < bottom
    mask = mouth_mask([16, 32, 33, 48], (2, 4, 4), TINY)
    expected = torch.zeros(2, 4, 4, dtype=torch.bool)
    expected[:, 2, 1:3] = True
    assert torch.equal(mask, expected)


def test_commas_stand_where_the_speaker_paused():
    words = [("one", 0.0, 0.5), ("two", 0.9, 1.2), ("three", 1.21, 1.5)]
    assert punctuated(words) == "one, two three."
