"""A new model from a picture stream and a sound stream: what it takes over, what it draws, what it says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unitalk_core.__main__ import main
from unitalk_core.av import AV
from unitalk_core.config import OVI_720, OVI_AUDIO, UNITALK, WAN_VIDEO, ModelConfig
from unitalk_core.models.mmdit import JointDiT, initialise
from unitalk_core.training.config import read_config
from unitalk_core.training.origin import load_base
from unitalk_core.weights.assemble import assemble, save_assembled, untrained
from unitalk_core.weights.files import read_metadata, save_tensors
from unitalk_core.weights.loading import load_model

SMALL = {"width": 128, "heads": 1, "depth": 2, "ffn_width": 96, "text_dim": 24}  # 128 a head, as at full size
VIDEO, AUDIO = replace(WAN_VIDEO, **SMALL), replace(OVI_AUDIO, **SMALL)
WAN = ModelConfig(streams=AV(VIDEO, None), format=UNITALK.format)
OVI = replace(OVI_720, streams=AV(VIDEO, AUDIO))
ONE = torch.tensor([500.0])


def weights_of(config: ModelConfig, seed: int = 1) -> dict[str, Tensor]:
    """As if trained: no layer is zero."""
    model = JointDiT(config)
    initialise(model, seed)
    generator = torch.Generator().manual_seed(seed)
    state = model.state_dict()
    return {name: one + 0.05 * torch.randn(one.shape, generator=generator) for name, one in state.items()}


@pytest.fixture
def wan(tmp_path: Path) -> Path:
    named = {name.removeprefix("video_model."): one for name, one in weights_of(WAN).items()}
    save_tensors(tmp_path / "wan.safetensors", named)
    return tmp_path / "wan.safetensors"


@pytest.fixture
def ovi(tmp_path: Path) -> Path:
    save_tensors(tmp_path / "ovi.safetensors", weights_of(OVI, seed=2))
    return tmp_path / "ovi.safetensors"


def has_sound_of(model: JointDiT, other: JointDiT) -> bool:
    """Whether it has the sound stream of another one bit for bit, but what that reads of its own picture."""
    ours, theirs = model.audio_model.state_dict(), other.audio_model.state_dict()
    return all(torch.equal(ours[name], one) for name, one in theirs.items() if "_fusion" not in name)


def velocity(model: JointDiT, couple: tuple[bool, bool] = (False, False)) -> AV[Tensor]:
    draw = torch.Generator().manual_seed(4)
    channels = model.config.format.audio_channels
    latent = AV(torch.randn(1, 48, 2, 4, 4, generator=draw), torch.randn(1, channels, 9, generator=draw))
    text = torch.randn(1, 5, 24, generator=draw)
    with torch.no_grad():
        return model(latent, AV(ONE, ONE), AV(text, text), couple=couple)


def test_the_picture_stream_computes_as_in_its_own_file(wan: Path) -> None:
    alone, _ = load_model(wan)
    draw = torch.Generator().manual_seed(4)
    latent, sound = torch.randn(1, 48, 2, 4, 4, generator=draw), torch.randn(1, 40, 9, generator=draw)
    text = torch.randn(1, 5, 24, generator=draw)
    with torch.no_grad():
        expected = alone(AV(latent, None), AV(ONE, None), AV(text, None)).video
        model = assemble(wan).model
        made = model(AV(latent, sound), AV(ONE, ONE), AV(text, text), couple=(False, False))
    assert torch.equal(made.video, expected) and not made.audio.any()


def test_a_twin_copies_the_blocks_and_draws_its_ends(wan: Path) -> None:
    weights = assemble(wan, "twin").model.state_dict()
    assert weights["audio_model.patch_embedding.weight"].shape == (128, 40)
    for name in ("blocks.1.self_attn.q.weight", "text_embedding.0.bias", "time_projection.1.weight"):
        assert torch.equal(weights[f"audio_model.{name}"], weights[f"video_model.{name}"])
        assert weights[f"audio_model.{name}"].data_ptr() != weights[f"video_model.{name}"].data_ptr()
    assert not weights["audio_model.blocks.0.cross_attn.v_ref.weight"].any()


def test_a_drawn_stream_is_the_seeds(wan: Path) -> None:
    name = "audio_model.blocks.0.ffn.0.weight"
    drawn = [assemble(wan, "random", seed).model.state_dict()[name] for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_ovis_sound_computes_as_it_does_without_its_picture(wan: Path, ovi: Path) -> None:
    model, said = assemble(wan, ovi)
    assert model.config.format == OVI.format and model.config.coupling == "joint"
    assert not [name for name in model.state_dict() if "_fusion" in name]
    theirs, _ = load_model(ovi)
    assert has_sound_of(model, theirs)
    torch.testing.assert_close(velocity(model).audio, velocity(theirs).audio)
    assert "that of ovi.safetensors, without what it read of its own picture, trained, 16000 Hz" in said
    assert "joint attention: never trained together" in said and not untrained(model)


def test_ovis_audio_file_alone_and_the_towers_names_will_do(wan: Path, tmp_path: Path) -> None:
    own = {name: one for name, one in weights_of(OVI, seed=2).items() if name.startswith("audio_model.")}
    save_tensors(tmp_path / "audio.safetensors", own)
    bare = {name.removeprefix("audio_model."): one for name, one in own.items() if "_fusion." not in name}
    save_tensors(tmp_path / "tower.safetensors", bare)
    models = [assemble(wan, tmp_path / f"{name}.safetensors").model for name in ("audio", "tower")]
    assert has_sound_of(*models)
    made = [velocity(model).audio for model in models]
    torch.testing.assert_close(made[0], made[1])  # in another file weights lie elsewhere
    assert made[0].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_all_weights_are_in_the_precision_that_is_asked_for(wan: Path, ovi: Path, dtype) -> None:
    for sound in ("twin", ovi):
        assert {one.dtype for one in assemble(wan, sound, dtype=dtype).model.parameters()} == {dtype}


def test_the_words_say_what_is_noise(wan: Path) -> None:
    model, said = assemble(wan)
    assert said.startswith("picture: 2 blocks of 128, trained; sound: a copy of the picture's blocks, not")
    assert said.endswith("sampling gives a picture, and noise for sound, until you train it")
    assert untrained(model) == ["sound"]


def test_what_cannot_be_put_together_is_said_in_one_sentence(wan: Path, ovi: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ovi\.safetensors has a sound stream already; name the file"):
        assemble(ovi)
    with pytest.raises(ValueError, match=r"wan\.safetensors has no sound stream"):
        assemble(wan, wan)
    small = replace(OVI, streams=AV(VIDEO, AUDIO).map(lambda one: replace(one, depth=1)))
    save_tensors(tmp_path / "small.safetensors", weights_of(small))
    with pytest.raises(ValueError, match=r"small\.safetensors has depth 1, the picture stream 2"):
        assemble(wan, tmp_path / "small.safetensors")
    with pytest.raises(FileNotFoundError, match=r"there is no file .*thirds"):
        assemble(wan, tmp_path / "thirds")


def test_a_saved_one_is_loaded_again_and_is_where_training_begins(wan: Path, tmp_path: Path) -> None:
    model, seen = assemble(wan).model, []
    save_assembled(tmp_path / "new.safetensors", model, lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 0
    again, config = load_model(tmp_path / "new.safetensors")
    assert config == model.config
    assert all(torch.equal(one, again.state_dict()[name]) for name, one in model.state_dict().items())
    base = load_base(read_config("tiny-lora", [f"model={tmp_path / 'new.safetensors'}"]))
    twin = load_base(read_config("tiny-lora", [f"model={wan}", "audio=twin", "seed=0"]))
    assert base.config == twin.config
    values = twin.model.state_dict()
    assert all(torch.equal(one, values[name]) for name, one in base.model.state_dict().items())


def test_the_command_assembles_and_says_so(wan: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "new.safetensors"
    assert main(["convert", str(wan), str(out), "--sound", "random", "--seed", "3", "--dtype", "bf16"]) == 0
    assert "drawn at random (seed 3), not trained" in capsys.readouterr().out
    table = json.loads(read_metadata(out)["unitalk"])
    assert ModelConfig.from_json(table["model"]).streams.present()[1].in_channels == 40
    for wrong in (["--split"], ["--format", "comfy"], ["--dtype", "fp8_scaled"]):
        assert main(["convert", str(wan), str(out), "--sound", "twin", *wrong]) == 2
        assert "--sound makes a new model" in capsys.readouterr().err
