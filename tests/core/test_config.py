"""Configurations: complete, checked where they are made, and the same after a trip through JSON."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from unitalk_core.av import AV
from unitalk_core.config import OVI_720, OVI_960, TINY, UNITALK, WAN, ModelConfig

PRESETS = {"unitalk": UNITALK, "wan": WAN, "ovi 720": OVI_720, "ovi 960": OVI_960, "tiny": TINY}


@pytest.mark.parametrize("name", PRESETS)
def test_a_configuration_survives_json(name):
    config = PRESETS[name]
    assert ModelConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_full_size_is_the_trunk_of_wan():
    for stream in UNITALK.streams.present():
        assert (stream.width, stream.heads, stream.depth, stream.ffn_width) == (3072, 24, 30, 14336)
    assert UNITALK.streams.video.rope_scale == 1.0
    assert UNITALK.streams.audio.rope_scale == pytest.approx(UNITALK.format.rope_scale)


def test_a_configuration_cannot_be_changed_by_accident():
    with pytest.raises(FrozenInstanceError):
        TINY.shift = 1.0


MISTAKES = {
    "heads": ({"heads": 5}, "width 192 does not split into 5 heads"),
    "rotary": ({"heads": 64}, "head width 3 must be even"),
    "reference": ({"reference": "linear", "reference_dim": 0}, "needs reference_dim, got 0"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_facts_that_must_hold_are_checked_with_their_numbers(name):
    change, words = MISTAKES[name]
    with pytest.raises(ValueError, match=words):
        replace(TINY.streams.video, **change)


def test_streams_that_cannot_meet_are_refused():
    with pytest.raises(ValueError, match="must share width, heads and depth"):
        replace(TINY, streams=AV(TINY.streams.video, replace(TINY.streams.audio, depth=5)))
    with pytest.raises(ValueError, match="at least one stream"):
        replace(TINY, streams=AV(None, None))


def test_an_unknown_field_is_named():
    data = TINY.to_json()
    with pytest.raises(ValueError, match="ModelConfig has no field colour"):
        ModelConfig.from_json(data | {"colour": "red"})
    data["streams"]["audio"]["taste"] = 1
    with pytest.raises(ValueError, match="StreamConfig has no field taste"):
        ModelConfig.from_json(data)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (["streams"], "ModelConfig lacks streams"),
        (["streams", "audio"], "AV lacks audio"),
        (["streams", "video", "width"], "StreamConfig lacks width"),
        (["format", "fps"], "ClipFormat lacks fps"),
    ],
)
def test_a_missing_field_is_named(path, said):
    data = part = TINY.to_json()
    for key in path[:-1]:
        part = part[key]
    del part[path[-1]]
    with pytest.raises(ValueError, match=said):
        ModelConfig.from_json(data)


VIDEO, AUDIO = torch.zeros(1, 48, 5, 4, 4), torch.zeros(1, 20, 21)
FOREIGN = {
    "picture": (
        AV(torch.zeros(1, 16, 5, 4, 4), AUDIO),
        r"video latent \(1, 16, 5, 4, 4\) is not of this model",
    ),
    "sound": (AV(VIDEO, torch.zeros(1, 40, 21)), r"which takes \(b, 48, f, h, w\) and \(b, 20, n\)"),
    "no frames": (AV(torch.zeros(1, 48, 0, 4, 4), AUDIO), "is empty"),
    "nan": (AV(VIDEO, AUDIO / 0), "audio latent holds NaN"),
    "odd": (AV(torch.zeros(1, 48, 5, 4, 5), AUDIO), "80 x 64 pixels, .* multiples of 32"),
}


@pytest.mark.parametrize("latents", [AV(VIDEO, AUDIO), AV(VIDEO, None), AV(None, AUDIO)])
def test_latents_of_a_model_are_taken_whole_or_one_stream_alone(latents):
    TINY.check_latents(latents)


@pytest.mark.parametrize("name", FOREIGN)
def test_latents_of_another_model_are_named_with_the_node_to_use(name):
    latents, words = FOREIGN[name]
    with pytest.raises(ValueError, match=f"{words}.*UniTalk Empty Latent"):
        TINY.check_latents(latents)


def test_a_stream_that_a_model_does_not_have_is_refused():
    with pytest.raises(ValueError, match=r"which takes \(b, 48, f, h, w\); use"):
        replace(TINY, streams=AV(TINY.streams.video, None)).check_latents(AV(VIDEO, AUDIO))


def test_text_and_voices_of_another_model_are_named():
    TINY.check_text(torch.zeros(1, 9, 192))
    TINY.check_text(None)
    TINY.check_voices([torch.zeros(1, 94, 20)])
    with pytest.raises(
        ValueError, match=r"4096 numbers a token, this model reads 192; .* UniTalk Load Embedded"
    ):
        TINY.check_text(torch.zeros(1, 9, 4096))
    with pytest.raises(ValueError, match=r"reads 4096; .* CLIPLoader of type wan"):
        UNITALK.check_text(torch.zeros(1, 9, 192))
    with pytest.raises(ValueError, match="40 channels, this model hears 20"):
        TINY.check_voices([torch.zeros(1, 94, 40)])
