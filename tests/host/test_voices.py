"""Two voices in one clip inside a real ComfyUI: what `inside/on_voices.py` measured, judged."""

from __future__ import annotations

import re

import pytest

from tests.host.test_nodes import PARITY

SENTENCES = {
    "no voice": "put UniTalk Reference Audio Encode before",
    "no time": "to a later one, got 1-0.5 s",
    "at once": "the voices of 0-0.5 s and 0.4 s to the end meet",
    "behind the end": "the clip of 0.67 s ends before the voice of 2 s to the end begins",
}


@pytest.mark.parametrize("voices", ["two", "one and the rest"])
def test_voices_with_their_seconds_give_the_latents_of_the_cores_pipeline(measured, voices):
    assert max(measured("two_voices_against_core")[voices]) < PARITY


@pytest.mark.parametrize("what", ["voice", "image", "coupling"])
def test_guidance_by_two_voices_and_beside_a_kept_picture_is_the_cores(measured, what):
    video, audio, moved = measured("guided_voices_and_tasks")[what]
    assert max(video, audio) < PARITY
    assert moved > 1e-3


def test_a_voice_with_all_seconds_is_the_plain_one_and_a_second_one_is_heard(measured):
    found = measured("voices_in_the_host")
    assert found["the same"]
    assert found["another"] > 1e-3
    assert found["finite"] and found["left as it was"]


@pytest.mark.parametrize("name", SENTENCES)
def test_seconds_that_cannot_be_get_one_sentence(measured, name):
    said = measured("voice_sentences")[name]
    assert re.fullmatch(r"ValueError: [^\n]{20,200}", said)
    assert re.search(SENTENCES[name], said)
