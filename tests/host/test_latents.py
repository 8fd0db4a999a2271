"""Latents apart, together and in files in a real ComfyUI: what `inside/on_latents.py` measured, judged."""

from __future__ import annotations

import re

import pytest

SENTENCES = {
    "no sound to split": "no audio stream; connect",
    "no picture to join": "no video stream; connect",
    "more masks than streams": "has 2 streams, the latent itself 1: .* UniTalk Join Latent",
    "other batches": "hold 1 and 2 clips; .* UniTalk Repeat Latent",
    "uneven": "hold 1 and 2 clips; .* UniTalk Repeat Latent",
    "behind the batch": "2 clips, numbered from 0; it has no 2 from 1 on",
    "before the batch": "it has no 1 from -3 on",
    "no picture to resize": "no video stream; connect",
    "strange": "carries strange of type object, which a file cannot hold",
    "no file": "there is no file .*nowhere.latent.safetensors",
    "outside": "Invalid file path",
}


@pytest.mark.parametrize("latent", ["ours", "another model's", "three streams", "a picture"])
def test_a_saved_latent_is_offered_and_loads_bit_for_bit(measured, latent):
    assert measured("latents_in_files")[latent] == [True, True]


def test_files_are_numbered_and_a_changed_one_is_noticed(measured):
    found = measured("latents_in_files")
    assert found["numbered"] == [True, True]
    assert found["noticed"]
    assert found["left"] == 0


def test_streams_come_apart_and_together_as_with_the_stock_nodes_and_takes_can_be_mixed(measured):
    assert [name for name, holds in measured("latents_apart_and_together").items() if not holds] == []


def test_clips_are_repeated_and_picked_with_all_that_is_theirs(measured):
    found = measured("batches_of_latents")
    assert found.pop("numbers") == [[4, 7, 8, 11, 12, 15], [15], [8, 11, 12]]
    assert found.pop("three") == [[4, 4, 3, 2, 2], [4, 5, 6], [4, 7]]
    assert found.pop("plain") == [[2, 4, 2, 4, 4], [2, 1, 2, 4, 4]]
    assert [name for name, holds in found.items() if not holds] == []


@pytest.mark.parametrize("method", ["nearest-exact", "bilinear", "area", "bicubic", "bislerp"])
def test_the_picture_grows_and_the_sound_stays(measured, method):
    found = measured("larger_latents")
    assert found[method] == [[2, 128, 3, 4, 10], [2, 1, 3, 4, 10]]
    assert found[f"{method} sound"]


def test_a_second_pass_changes_the_larger_picture_under_its_sound(measured):
    found = measured("larger_latents")
    assert found["as the stock node"]
    assert found["second pass"] == [[1, 48, 5, 6, 6], [1, 20, 21]]
    assert found["sound stays"] and found["picture changes"]


@pytest.mark.parametrize("name", SENTENCES)
def test_what_cannot_be_done_with_a_latent_gets_one_sentence(measured, name):
    said = measured("latent_sentences")[name]
    assert re.fullmatch(r"(ValueError|FileNotFoundError): [^\n]{20,200}", said)
    assert re.search(SENTENCES[name], said)
