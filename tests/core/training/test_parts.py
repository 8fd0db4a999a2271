"""Parts: every parameter has exactly one, and patterns that name nothing are refused."""

from __future__ import annotations

import pytest
import torch

from unitalk_core.config import OVI_720, TINY, UNITALK
from unitalk_core.models.mmdit import JointDiT
from unitalk_core.models.text_encoder import PhonemeEncoder
from unitalk_core.training.parts import chosen, linear_layers, part_of, parts_of
from unitalk_core.training.trainee import Trainee


def names_of(config) -> list[str]:
    with torch.device("meta"):
        return [name for name, _ in JointDiT(config).named_parameters()]


@pytest.mark.parametrize("config", [TINY, UNITALK, OVI_720], ids=["tiny", "unitalk", "ovi"])
def test_every_parameter_has_a_part(config):
    parts = parts_of(names_of(config))
    both = ["input", "text", "time", "modulation", "self", "cross", "ffn", "head"]
    assert {f"{stream}.{group}" for stream in ("video", "audio") for group in both} <= set(parts)
    assert ("audio.reference" in parts) == (config is not OVI_720)
    assert ("audio.fusion" in parts) == (config is OVI_720)


def test_the_names_of_a_trainee_have_the_same_parts():
    with torch.device("meta"):
        trainee = Trainee(JointDiT(TINY), PhonemeEncoder())
    parts = parts_of([name for name, _ in trainee.named_parameters()])
    assert set(parts) == {*parts_of(names_of(TINY)), "text_encoder"}


def test_what_is_no_parameter_is_refused():
    with pytest.raises(ValueError, match=r"video_model.blocks.0.nothing is no parameter of a joint model"):
        part_of("video_model.blocks.0.nothing")


def test_patterns_choose_parts_and_not_letters():
    """A trainer that matches short names also trains what it should not: `audio.self` is no `video.self`."""
    names = names_of(TINY)
    some = chosen(names, ["audio.self", "*.head"], "train")
    assert {part_of(name) for name in some} == {"audio.self", "audio.head", "video.head"}
    assert chosen(names, ["*"], "train") == names
    assert chosen(names, [], "train") == []


def test_a_pattern_that_fits_nothing_is_named_with_what_there_is():
    with pytest.raises(
        ValueError, match=r"^train names audio.slef, which this model lacks; it has video.input"
    ):
        chosen(names_of(TINY), ["audio.slef"], "train")


def test_only_linear_layers_can_have_a_lora():
    with torch.device("meta"):
        model = JointDiT(TINY)
    layers = linear_layers(model, ["audio.ffn"], "lora.targets")
    assert layers == [f"audio_model.blocks.{i}.ffn.{j}" for i in range(6) for j in (0, 2)]
    with pytest.raises(ValueError, match=r"lora.targets names audio.modulation, which this model lacks"):
        linear_layers(model, ["audio.modulation"], "lora.targets")
