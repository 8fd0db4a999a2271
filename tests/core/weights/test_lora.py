"""LoRA: nothing changes at the start, its file gives back what was trained, and foreign keys are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from unitalk_core.av import AV
from unitalk_core.config import TINY
from unitalk_core.models.mmdit import JointDiT, initialise
from unitalk_core.weights.files import save_tensors
from unitalk_core.weights.lora import (
    PARTS,
    add_lora,
    apply_lora,
    difference,
    is_lora,
    lora_file,
    part_of,
    read_lora,
    read_strengths,
)

SMALL = {"width": 48, "heads": 2, "depth": 2, "ffn_width": 64, "text_dim": 32, "text_len": 16}
HEAD = "diffusion_model.audio_model.head.head"
LAYERS = ("audio_model.blocks.0.self_attn.q", "video_model.blocks.1.ffn.0", "audio_model.head.head")
WHOLE = ("audio_model.blocks.1.modulation", "video_model.head.head.bias", "audio_model.blocks.0.norm3.weight")


def small() -> JointDiT:
    config = replace(TINY, streams=TINY.streams.map(lambda stream: replace(stream, **SMALL)))
    model = JointDiT(config)
    initialise(model, 0)
    torch.manual_seed(0)
    for stream in model.streams.present():
        torch.nn.init.normal_(stream.head.head.weight, std=0.1)
    return model


@torch.no_grad()
def answer(model: JointDiT) -> torch.Tensor:
    """Both velocities in a row, for one clip."""
    draw = torch.Generator().manual_seed(0)
    latent = AV(torch.randn(1, 48, 2, 4, 4, generator=draw), torch.randn(1, 20, 9, generator=draw))
    given = AV(*[torch.tensor([400.0])] * 2), AV(*[torch.randn(1, 16, 32, generator=draw)] * 2)
    return torch.cat([one.flatten() for one in model(latent, *given).present()])


def trained() -> tuple[JointDiT, dict[str, torch.Tensor]]:
    """A model that has learned something, and the file of what it learned."""
    model, before = small(), small().state_dict()
    add_lora(model, LAYERS, rank=4, alpha=8.0, seed=0)
    learned = {name: one for name, one in model.named_parameters() if is_lora(name) or name in WHOLE}
    with torch.no_grad():
        for one in learned.values():
            one.add_(0.1 * torch.randn(one.shape, generator=torch.Generator().manual_seed(1)))
    return model, lora_file(learned, before, 8.0)


def test_a_fresh_lora_changes_nothing_and_keeps_the_models_own_names():
    model, plain = small(), small()
    add_lora(model, LAYERS, rank=4, alpha=8.0, seed=0)
    assert torch.equal(answer(model), answer(plain))
    assert [name for name in model.state_dict() if not is_lora(name)] == list(plain.state_dict())


def test_the_file_gives_back_what_was_trained():
    model, file = trained()
    again = small()
    apply_lora(again, file, 1.0, "test")
    torch.testing.assert_close(answer(again), answer(model), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(answer(again), answer(small()), atol=1e-3)


def test_strength_scales_it_and_its_negative_takes_it_off():
    _, file = trained()
    model = small()
    apply_lora(model, file, 0.7, "test")
    apply_lora(model, file, -0.7, "test")
    torch.testing.assert_close(answer(model), answer(small()), rtol=1e-4, atol=1e-5)


def test_each_part_has_its_own_strength():
    _, file = trained()
    model = small()
    apply_lora(model, file, read_strengths("0.5,sound:0"), "test")
    changed = {n for n, one in model.named_parameters() if not torch.equal(one, small().get_parameter(n))}
    assert changed and all(name.startswith("video_model.") for name in changed)
    whole, half = small(), small().state_dict()
    apply_lora(whole, file, 1.0, "test")
    for name in changed:
        torch.testing.assert_close(
            model.get_parameter(name) - half[name], 0.5 * (whole.get_parameter(name) - half[name])
        )


def test_weights_belong_to_the_parts_that_an_artist_thinks_in():
    block = "{}_model.blocks.3.{}"
    assert part_of(block.format("video", "ffn.0.weight")) == "picture"
    assert part_of(block.format("audio", "modulation")) == "sound"
    assert part_of(block.format("audio", "cross_attn.k_fusion.weight")) == "picture_to_sound"
    assert part_of(block.format("video", "cross_attn.norm_k_fusion.weight")) == "sound_to_picture"
    assert part_of(block.format("video", "cross_attn.v_ref.bias")) == "reference"
    assert part_of("audio_model.reference_embedding.weight") == "reference"
    assert {part_of(name) for name in small().state_dict()} == {"picture", "sound", "reference"}


def test_strengths_are_read_as_they_are_typed():
    assert set(read_strengths("").values()) == {1.0}
    assert set(read_strengths("-0.3").values()) == {-0.3}
    found = read_strengths("0.8,sound:0,reference:1.5")
    assert found == dict(zip(PARTS, (0.8, 0, 0.8, 0.8, 1.5), strict=True))
    for text, sentence in (
        ("voice:1", "no part voice; its parts are"),
        ("nan", "must be a number"),
        ("x", "x"),
    ):
        with pytest.raises(ValueError, match=sentence):
            read_strengths(text)


def test_the_difference_of_two_models_turns_one_into_the_other():
    model, other = small(), small()
    with torch.no_grad():
        for name in WHOLE:
            other.get_parameter(name).add_(0.1)
    file = difference(other, model)
    assert len(file) == len(WHOLE)
    apply_lora(model, file, 1.0, "test")
    torch.testing.assert_close(answer(model), answer(other), rtol=1e-4, atol=1e-5)


def test_the_names_are_those_the_host_loads():
    _, file = trained()
    layer = "diffusion_model.audio_model.blocks.0.self_attn.q"
    assert {f"{layer}.lora_down.weight", f"{layer}.lora_up.weight", f"{layer}.alpha"} <= file.keys()
    assert float(file[f"{layer}.alpha"]) == 8
    assert "diffusion_model.audio_model.blocks.1.modulation.diff" in file
    assert "diffusion_model.video_model.head.head.diff_b" in file
    assert "diffusion_model.audio_model.blocks.0.norm3.diff" in file


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"diffusion_model.audio_model.blocks.9.ffn.0.diff": torch.ones(2)}, "1 of 13 keys have no place"),
        ({"lora_unet_blocks_0.alpha": torch.tensor(1.0)}, "1 of 13 keys have no place"),
        (
            {f"{HEAD}.lora_up.weight": torch.ones(5, 4)},
            "of 12 keys have no place",
        ),
        (
            {f"{HEAD}.lora_up.weight": torch.ones(20, 3)},
            "lacks a lora_down.weight",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_before_anything_changes(change, sentence):
    _, file = trained()
    model = small()
    with pytest.raises(ValueError, match=sentence):
        apply_lora(model, file | change, 1.0, "mine.safetensors")
    assert torch.equal(answer(model), answer(small()))


def test_a_file_that_is_no_lora_is_named(tmp_path):
    save_tensors(tmp_path / "model.safetensors", {"head.weight": torch.ones(2)})
    with pytest.raises(ValueError, match=r"model\.safetensors is no LoRA of ours or ComfyUI's"):
        read_lora(tmp_path / "model.safetensors")
