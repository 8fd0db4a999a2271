"""Guidance and step cache in a real ComfyUI: what `inside/on_guidance.py` measured, judged."""

from __future__ import annotations

import re

import pytest

PARITY = 1e-4  # relative, host against core: the order of float32 sums differs
SENTENCES = {
    "no voice": "by the voice needs one; use UniTalk Reference Audio Encode",
    "no picture": "needs a latent whose mask keeps a part of the picture",
    "one stream": "needs a latent with a picture and a sound",
    "no such block": "blocks of this model are 0 to 5, got 6",
    "no blocks": "whole numbers with commas between, such as 3, 4; got 'all'",
    "backwards": "start before it ends, both from 0 to 1, got 0.5 to 0.2",
    "another model": "takes a UniTalk model, got NoneType; load one",
    "threshold": "a step cache must start before it ends",
}


@pytest.mark.parametrize("what", ["voice", "image", "coupling", "blocks", "all", "shape"])
def test_guidance_of_a_model_gives_the_latents_of_the_core(measured, what):
    video, audio, moved = measured("guidance_against_core")[what]
    assert max(video, audio) < PARITY
    assert moved > 1e-3


def test_the_same_model_is_guided_under_the_guiders_of_the_host(measured):
    found = measured("guidance_under_stock_guiders")
    assert max(found["CFGGuider"]) < PARITY
    assert found["KSampler"][0] > 1e-3


def test_the_joint_sampler_and_its_parts_give_the_same_bits(measured):
    assert measured("box_and_parts") == [0, 0]


def test_no_pass_is_run_twice_off_or_out_of_its_range(measured):
    found = measured("passes")
    assert (found["text"], found["text off"], found["text half the way"]) == (8, 4, 6)
    assert (found["the same pass twice"], found["off"]) == (12, 8)
    for name, count in (("half the way", 10), ("KSampler", 11), ("KSampler without text", 7)):
        passes, said = found[name]
        assert passes == count
        assert said[-1].startswith(f"{count} passes in 4 steps: the full pass, ")


@pytest.mark.parametrize("name", SENTENCES)
def test_guidance_that_cannot_be_gets_one_sentence(measured, name):
    said = measured("guidance_sentences")[name]
    assert re.fullmatch(r"ValueError: [^\n]{20,200}", said)
    assert SENTENCES[name] in said


def test_the_step_cache_skips_what_the_core_skips_in_every_run_and_says_so(measured):
    found = measured("step_cache")
    assert max(found["difference"]) < PARITY
    assert found["core"] > 0
    assert found["said"] == f"{found['core']} of 8 steps taken from the cache"
    first, again, strict, _, plain = found["passes"]
    assert first == again
    assert strict == plain == 16  # the sound forbids it


def test_easycache_of_the_host_skips_and_what_it_writes_into_its_input_does_no_harm(measured):
    *_, easy, plain = measured("step_cache")["passes"]
    assert easy < plain
    assert max(measured("step_cache")["easy"]) < 1
    assert measured("written_input") == 0
