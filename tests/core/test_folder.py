"""A folder of published files, small: found by what they hold, in memory one at a time, the same clip."""

from __future__ import annotations

import gc
import shutil
import weakref
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import nn

from unitalk_core.av import AV
from unitalk_core.config import OVI_720, OVI_AUDIO, WAN, WAN_VIDEO, ModelConfig
from unitalk_core.folder import find_files
from unitalk_core.media import read_video, write_wav
from unitalk_core.models.audio_vae import AUDIO_VAE_16K, AudioVAE
from unitalk_core.models.mmdit import JointDiT, initialise
from unitalk_core.models.text_encoder import UMT5Config, UMT5Encoder
from unitalk_core.models.video_vae import WAN_VAE, VideoVAE
from unitalk_core.models.vocoder import BIGVGAN_16K, BigVGAN
from unitalk_core.pipeline import Bundle, Request, generate, load_bundle
from unitalk_core.staged import StagedBundle
from unitalk_core.weights.files import save_tensors
from unitalk_core.weights.loading import (
    load_audio_codec,
    load_model,
    load_text_encoder,
    load_video_vae,
)

SMALL = {"width": 128, "heads": 1, "depth": 3, "ffn_width": 96, "text_dim": 32}
OVI = replace(OVI_720, streams=AV(replace(WAN_VIDEO, **SMALL), replace(OVI_AUDIO, **SMALL)))
TEXT = UMT5Config(vocabulary=64, dim=32, attention_dim=32, ffn_width=24, heads=2, depth=2)
ASK = Request(say="hello world", scene="a man", seconds=0.2, width=64, height=32, steps=2)


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: one.detach() + 0.02 * torch.randn_like(one) for name, one in module.state_dict().items()}


def trained(config: ModelConfig) -> dict[str, torch.Tensor]:
    model = JointDiT(config)
    initialise(model, seed=1)
    return weights(model)


@pytest.fixture(scope="module")
def ovi(tmp_path_factory: pytest.TempPathFactory, pieces: bytes) -> Path:
    """As Ovi lays its files out, with its modulation's names; each file small."""
    folder = tmp_path_factory.mktemp("ckpts")
    for name in ("Ovi", "Wan2.2-TI2V-5B/google/umt5-xxl", "MMAudio/ext_weights"):
        (folder / name).mkdir(parents=True)
    torch.manual_seed(0)
    model = {
        f"{name}.modulation" if ".modulation" in name and ".head." not in name else name: one
        for name, one in trained(OVI).items()
    }
    save_tensors(folder / "Ovi" / "model.safetensors", model)
    wan, sound = folder / "Wan2.2-TI2V-5B", folder / "MMAudio" / "ext_weights"
    torch.save(weights(UMT5Encoder(TEXT)), wan / "models_t5_umt5-xxl-enc-bf16.pth")
    (wan / "google" / "umt5-xxl" / "spiece.model").write_bytes(pieces)
    vae = replace(WAN_VAE, encoder_width=16, decoder_width=18)
    torch.save(VideoVAE(vae).state_dict(), wan / "Wan2.2_VAE.pth")
    for rate, channels, mels in (("16", 20, 80), ("44", 40, 128)):
        small = replace(AUDIO_VAE_16K, latent_channels=channels, mels=mels, width=8)
        torch.save(AudioVAE(small).state_dict(), sound / f"v1-{rate}.pth")
    vocoder = BigVGAN(replace(BIGVGAN_16K, width=64))
    torch.save({"generator": vocoder.state_dict()}, sound / "best_netG.pt")
    return folder


@pytest.fixture
def resident(ovi: Path) -> Bundle:
    """All parts in memory from the start."""
    files = find_files(ovi)
    return Bundle(
        *load_model(files.model),
        load_video_vae(files.video_vae),
        load_audio_codec(files.audio_vae, files.vocoder),
        load_text_encoder(files.text_encoder, files.tokenizer),
    )


def test_the_files_are_found_by_what_they_hold_and_the_sound_by_its_rate(ovi):
    found = find_files(ovi)
    assert found.config == OVI and [path.name for path in found.model] == ["model.safetensors"]
    assert found.audio_vae.name == "v1-16.pth" and found.vocoder.name == "best_netG.pt"
    assert found.text_encoder.name.startswith("models_t5") and found.tokenizer.name == "umt5-xxl"


@pytest.mark.parametrize("offload", ["none", "parts", "blocks"])
def test_a_part_at_a_time_makes_the_clip_of_all_together_bit_for_bit(ovi, resident, offload):
    request = replace(ASK, image=torch.rand(40, 50, 3))
    bundle = load_bundle(str(ovi), offload=offload)
    assert isinstance(bundle, StagedBundle)
    made, whole = generate(bundle, request), generate(resident, request)
    assert torch.equal(made.frames, whole.frames) and torch.equal(made.waveform, whole.waveform)
    assert made.frames.shape == (5, 32, 64, 3) and made.fps == Fraction(24) and made.frames.std() > 0


def test_in_fp8_it_makes_one_clip_too_however_it_comes_and_nearly_that_of_bf16(ovi, resident):
    given = {"dtype": torch.bfloat16, "float8": "fast"}
    clips = [
        generate(load_bundle(str(ovi), offload=one, **given), ASK) for one in ("none", "parts", "blocks")
    ]
    for clip in clips:
        assert torch.equal(clip.frames, clips[0].frames) and torch.equal(clip.waveform, clips[0].waveform)
    plain = generate(load_bundle(str(ovi), dtype=torch.bfloat16), ASK)
    assert 0 < (clips[0].frames - plain.frames).abs().mean() < 0.02


@pytest.mark.parametrize("offload", ["parts", "blocks"])
def test_what_is_attached_to_the_transformer_is_there_whenever_it_is_loaded(ovi, offload):
    calls = []
    bundle = load_bundle(str(ovi), offload=offload)
    plain = generate(bundle, ASK)
    bundle.attach(lambda model: model.register_forward_pre_hook(lambda *_: calls.append(1)))
    assert torch.equal(generate(bundle, ASK).frames, plain.frames)
    assert len(calls) == ASK.steps  # with and without the words in one batch


def test_what_is_no_longer_needed_is_let_go(ovi):
    held = {}

    class Watched(StagedBundle):
        def _part(self, name, load):
            part = super()._part(name, load)
            held[name] = weakref.ref(part)
            gc.collect()
            together.add(tuple(sorted(one for one, ref in held.items() if ref() is not None)))
            return part

    together: set[tuple[str, ...]] = set()
    found = find_files(ovi)
    generate(Watched(found, torch.device("cpu"), torch.float32), replace(ASK, image=torch.rand(32, 64, 3)))
    assert {name for names in together for name in names} == {
        "model",
        "text_encoder",
        "video_vae",
        "audio_codec",
    }
    assert all(len(names) == 1 for names in together)


def test_a_folder_says_all_that_it_lacks_and_what_it_has_twice(ovi, tmp_path):
    with pytest.raises(FileNotFoundError, match="lacks a transformer"):
        load_bundle(str(ovi / "MMAudio"))
    (tmp_path / "a").mkdir()
    link = tmp_path / "a" / "m.safetensors"
    link.write_bytes((ovi / "Ovi" / "model.safetensors").read_bytes())
    with pytest.raises(FileNotFoundError) as error:
        load_bundle(str(tmp_path))
    said = str(error.value)
    assert all(name in said for name in ("UMT5-XXL", "Wan2.2_VAE.pth", "v1-16.pth", "best_netG.pt"))
    assert "\n" not in said
    (tmp_path / "n.safetensors").write_bytes(link.read_bytes())
    with pytest.raises(ValueError, match=r"a transformer .* 2 times, a/m.safetensors and n.safetensors"):
        load_bundle(str(tmp_path))


def test_the_command_line_makes_a_clip_from_a_folder(ovi, tmp_path, capsys):
    from unitalk_core.__main__ import main

    write_wav(tmp_path / "v.wav", torch.rand(1, 32000) - 0.5, 16000)
    options = ["--width", 64, "--height", 32, "--seconds", 0.2, "--steps", 1, "--out", tmp_path / "a.mp4"]
    common = ["sample", "--model", ovi, "--scene", "a man", "--dtype", "bf16", *options]
    assert main([*map(str, common), "--offload", "blocks"]) == 0
    assert read_video(tmp_path / "a.mp4").frames.shape == (5, 32, 64, 3)
    assert main([*map(str, common), "--dtype", "fp8_e4m3fn_fast", "--attention", "math"]) == 0
    assert main([*map(str, common), "--attention", "cudnn"]) == 2
    assert "cpu has no cudnn attention" in capsys.readouterr().err
    assert main([*map(str, common), "--offload", "blocks", "--compile"]) == 2
    assert "blocks that come one by one cannot be compiled" in capsys.readouterr().err
    assert main([*map(str, common), "--voice", str(tmp_path / "v.wav")]) == 2
    assert "does not take a voice" in capsys.readouterr().err
    assert main([*map(str, common), "--device", "cuda:77"]) == 2
    assert "there is no device cuda:77 here" in capsys.readouterr().err


def test_a_picture_stream_alone_needs_no_sound_files(ovi, tmp_path):
    wan = replace(WAN, streams=AV(replace(WAN_VIDEO, **SMALL), None))
    bare = {name.removeprefix("video_model."): one for name, one in trained(wan).items()}
    save_tensors(tmp_path / "wan.safetensors", bare)
    shutil.copytree(ovi / "Wan2.2-TI2V-5B", tmp_path / "Wan2.2-TI2V-5B")
    clip = generate(load_bundle(str(tmp_path)), replace(ASK, say=""))
    assert clip.waveform is None and clip.frames.shape == (5, 32, 64, 3)
