"""The nodes that give a part of a clip, inside a real ComfyUI: what `inside/on_tasks.py` measured, judged."""

from __future__ import annotations

import re

import pytest

from tests.host.test_nodes import PARITY

SENTENCES = {
    "no image": "connect first_image, last_image, or both",
    "three images": "3 pictures for 1 clips; .* UniTalk Keep Video",
    "an end of one frame": "one frame has no end",
    "an image for sound": "no video stream; connect the one of UniTalk Empty Latent",
    "the audio VAE for an image": "20 latent channels, the picture 48; connect the Wan2.2 VAE",
    "a picture too short": "13 frames and the clip 17; .* choose pad",
    "a picture too long": "18 frames and the clip 17; .* choose trim",
    "frames without a VAE": "connect the Wan2.2 VAE",
    "an empty picture": "the picture of the latent is empty; connect images and vae",
    "an empty sound": "the sound of the latent is empty; connect audio and audio_vae",
    "a sound too short": "0.31 s and the clip 0.67 s; set seconds of UniTalk Empty Latent to 0.31",
    "a sound too long": "1.25 s and the clip 0.67 s; .* choose trim",
    "the video VAE for sound": "use UniTalk Load Audio VAE",
    "sound of another VAE": r"sound \(b, 20, n\), got \(1, 40, 21\); connect the one",
    "no sound": "no audio stream; connect the one of UniTalk Empty Latent",
    "a clip twice": "connect previous, or images and audio, not both",
    "no clip": "no audio to continue",
    "a clip without sound": "no audio to continue",
    "two clips": "holds 2 clips; take one with UniTalk Latent From Batch",
    "no room": "fill all 17 of the new one; make it longer with UniTalk Empty Latent",
    "another rate": "17 frames at 24 fps have 22 latents of sound, the latent has 21; connect the fps",
    "too short to go on": "at least 0.2 s, got 0.16 s",
    "other lengths": "the picture is 528 ms longer",
    "too many seen": "connect the seen_frames of UniTalk Continue",
}


@pytest.mark.parametrize("task", ["image", "dub", "drive", "continue"])
def test_a_task_gives_the_latents_of_the_cores_pipeline(measured, task):
    assert max(measured("tasks_against_core")[task]) < PARITY


def test_parts_that_are_kept_add_up_in_any_order_and_come_back_bit_by_bit(measured):
    assert [name for name, holds in measured("tasks_in_a_chain").items() if not holds] == []


def test_a_stream_that_is_kept_whole_does_not_see_the_other_under_a_stock_sampler(measured):
    dub, drive, image, each_step = measured("kept_picture_does_not_hear")
    assert (dub, drive, image) == ([False, True], [True, False], [True, True])
    assert each_step


def test_one_picture_goes_to_all_clips_and_several_to_theirs(measured):
    found = measured("batches_of_tasks")
    assert found["alike"] and found["kept"]
    assert max(found["apart"]) < PARITY


def test_a_clip_goes_on_from_its_frames_or_its_latent_and_joins_its_old_self(measured):
    found = measured("clip_goes_on")
    assert found["seen"] == 17
    assert found["made"] == [2, 10]  # latent frames and sound latents behind what is seen
    assert found["frames"] == [29, 64, 64, 3] and found["old frames"]
    assert found["sound"] == [[1, 1, 36 * 512], 16000] and found["old sound"]
    assert max(found["of a latent"]) < PARITY


@pytest.mark.parametrize("case", ["picture pad", "picture trim", "sound pad", "sound trim"])
def test_another_length_is_mended_when_told_and_all_of_it_is_kept(measured, case):
    shape, made = measured("lengths_of_tasks")[case]
    assert shape == ([1, 48, 5, 4, 4] if "picture" in case else [1, 20, 21])
    assert not made


def test_a_sound_for_which_the_clip_is_the_nearest_length_needs_no_word(measured):
    assert measured("lengths_of_tasks")["near"] == [[1, 20, 21], [1, 20, 21]]


@pytest.mark.parametrize("name", SENTENCES)
def test_a_part_that_cannot_be_given_gets_one_sentence(measured, name):
    said = measured("task_sentences")[name]
    assert re.fullmatch(r"ValueError: [^\n]{20,200}", said)
    assert re.search(SENTENCES[name], said)
