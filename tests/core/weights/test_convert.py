"""Weights change their names, their precision, their file, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.parity.published import write_head
from unitalk_core.__main__ import main
from unitalk_core.av import AV
from unitalk_core.config import OVI_720, OVI_AUDIO, TINY, UNITALK, WAN_VIDEO, ModelConfig
from unitalk_core.models.mmdit import JointDiT, initialise
from unitalk_core.models.text_encoder import UMT5Config, UMT5Encoder
from unitalk_core.models.video_vae import WAN_VAE, VideoVAE
from unitalk_core.weights.files import (
    DTYPE_NAMES,
    Entry,
    open_weights,
    read_metadata,
    read_tensors,
    save_tensors,
)
from unitalk_core.weights.loading import load_model, load_text_encoder, load_video_vae, save_part
from unitalk_core.weights.lora import PARTS, PREFIX, apply_lora
from unitalk_core.weights.quantised import dequantise

SMALL = {"width": 128, "heads": 1, "depth": 2, "ffn_width": 256, "text_dim": 64}
WAN_SMALL = ModelConfig(streams=AV(replace(WAN_VIDEO, **SMALL), None), format=UNITALK.format)
OVI_SMALL = replace(OVI_720, streams=AV(replace(WAN_VIDEO, **SMALL), replace(OVI_AUDIO, **SMALL)))


def convert(*args: object) -> int:
    return main(["convert", *map(str, args)])


def weights_of(config: ModelConfig, dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = JointDiT(config)
    initialise(model, 0)
    return {name: torch.randn_like(one).to(dtype) for name, one in model.state_dict().items()}


def same(got: dict[str, Tensor], want: dict[str, Tensor]) -> bool:
    return got.keys() == want.keys() and all(
        got[name].dtype == want[name].dtype and torch.equal(got[name], want[name]) for name in want
    )


@pytest.fixture
def wan(tmp_path: Path) -> Path:
    """A small Wan2.2 in its own names."""
    bare = {name.removeprefix("video_model."): one for name, one in weights_of(WAN_SMALL).items()}
    save_tensors(tmp_path / "wan.safetensors", bare)
    return tmp_path / "wan.safetensors"


def umt5(dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    torch.manual_seed(0)
    config = UMT5Config(vocabulary=50, dim=16, attention_dim=16, ffn_width=24, heads=2, depth=2)
    return {name: one.to(dtype) for name, one in UMT5Encoder(config).state_dict().items()}


def test_a_model_comes_back_from_diffusers_bit_for_bit(wan: Path, tmp_path: Path, capsys) -> None:
    there, back = tmp_path / "diffusers.safetensors", tmp_path / "back.safetensors"
    assert convert(wan, there, "--format", "diffusers") == 0
    assert {"scale_shift_table", "blocks.1.attn2.to_out.0.bias"} <= read_tensors(there).keys()
    assert convert(there, back, "--format", "comfy") == 0
    assert same(read_tensors(back), read_tensors(wan))
    assert f"{back}: {back.stat().st_size:,} bytes" in capsys.readouterr().out
    assert load_model(there)[1] == WAN_SMALL


def test_a_vae_and_a_text_encoder_do_too(tmp_path: Path) -> None:
    vae = VideoVAE(replace(WAN_VAE, encoder_width=8, decoder_width=8, multipliers=(1, 2, 4, 4)))
    torch.save(dict(vae.state_dict()), tmp_path / "Wan2.2_VAE.pth")
    save_tensors(tmp_path / "t5.safetensors", umt5() | {"spiece_model": torch.arange(5, dtype=torch.uint8)})
    for name, form, load in (
        ("Wan2.2_VAE.pth", "diffusers", load_video_vae),
        ("t5.safetensors", "original", None),
    ):
        there, back = tmp_path / f"there_{form}.safetensors", tmp_path / f"back_{form}.safetensors"
        assert convert(tmp_path / name, there, "--format", form) == 0
        assert not same(read_tensors(there), read_tensors(tmp_path / name))
        assert convert(there, back, "--format", "comfy") == 0
        assert same(read_tensors(back), read_tensors(tmp_path / name))
        if load is not None:
            assert load(there).config == vae.config


def test_ovi_gets_its_own_names_back_and_a_name_that_nobody_has_is_named(tmp_path: Path, capsys) -> None:
    save_tensors(tmp_path / "ovi.safetensors", weights_of(OVI_SMALL))
    assert convert(tmp_path / "ovi.safetensors", tmp_path / "a.safetensors", "--format", "original") == 0
    assert "video_model.blocks.0.modulation.modulation" in read_tensors(tmp_path / "a.safetensors")
    assert convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--format", "comfy") == 0
    assert same(read_tensors(tmp_path / "b.safetensors"), weights_of(OVI_SMALL))
    assert convert(tmp_path / "a.safetensors", tmp_path / "c.safetensors", "--format", "diffusers") == 2
    assert "diffusers has no names for a model" in capsys.readouterr().err
    assert not (tmp_path / "c.safetensors").exists()


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_precision_changes_everything_that_is_a_number(wan: Path, tmp_path: Path, dtype: str) -> None:
    assert convert(wan, tmp_path / "a.safetensors", "--dtype", dtype) == 0
    made, wanted = read_tensors(tmp_path / "a.safetensors"), {"fp32": "F32", "bf16": "BF16", "fp16": "F16"}
    assert {DTYPE_NAMES[one.dtype] for one in made.values()} == {wanted[dtype]}
    whole = read_tensors(wan)
    assert all(torch.equal(one, whole[name].to(one.dtype)) for name, one in made.items())


def test_fp8_is_within_its_steps_and_keeps_its_bits_when_names_change(wan: Path, tmp_path: Path) -> None:
    save_tensors(wan, {f"model.diffusion_model.{name}": one for name, one in read_tensors(wan).items()})
    small, back = tmp_path / "fp8.safetensors", tmp_path / "back.safetensors"
    assert convert(wan, small, "--dtype", "fp8_scaled") == 0
    made, whole = read_tensors(small), read_tensors(wan)
    q = "model.diffusion_model.blocks.0.self_attn.q"
    assert made[f"{q}.weight"].dtype == torch.float8_e4m3fn and made[f"{q}.scale_weight"].shape == ()
    assert made["model.diffusion_model.scaled_fp8"].dtype == torch.float8_e4m3fn
    assert sum(one.dtype == torch.float8_e4m3fn and one.numel() > 0 for one in made.values()) == 20
    exact = made[f"{q}.weight"].float() * made[f"{q}.scale_weight"]
    error = (exact - whole[f"{q}.weight"].float()).abs()
    assert (error <= whole[f"{q}.weight"].float().abs() / 16 + made[f"{q}.scale_weight"] * 2**-9).all()
    assert torch.equal(dequantise(made, torch.float32)[f"{q}.weight"], exact)
    assert convert(small, tmp_path / "twice.safetensors", "--dtype", "fp8_scaled") == 0
    assert (tmp_path / "twice.safetensors").read_bytes() == small.read_bytes()
    assert convert(small, back, "--format", "diffusers") == 0
    again = read_tensors(back)
    assert torch.equal(again["blocks.0.attn1.to_q.weight"].float(), made[f"{q}.weight"].float())
    assert torch.equal(again["blocks.0.attn1.to_q.scale_weight"], made[f"{q}.scale_weight"])
    assert load_model(back)[1] == load_model(small)[1] == WAN_SMALL
    assert convert(back, tmp_path / "wide.safetensors", "--dtype", "fp32", "--format", "comfy") == 0
    assert torch.equal(read_tensors(tmp_path / "wide.safetensors")["blocks.0.self_attn.q.weight"], exact)


def test_a_text_encoder_in_fp8_is_what_comfyui_publishes(tmp_path: Path) -> None:
    save_tensors(tmp_path / "t5.safetensors", umt5())
    assert convert(tmp_path / "t5.safetensors", tmp_path / "a.safetensors", "--dtype", "fp8_scaled") == 0
    made = read_tensors(tmp_path / "a.safetensors")
    fp8 = [name for name, one in made.items() if one.dtype == torch.float8_e4m3fn and one.numel()]
    assert len(fp8) == 2 * 7 and all("relative_attention_bias" not in name for name in fp8)
    assert made["shared.weight"].dtype == torch.float16
    assert load_text_encoder(tmp_path / "a.safetensors").config.depth == 2


def test_streams_are_split_and_merged_again(tmp_path: Path, capsys) -> None:
    whole, config = (
        weights_of(TINY) | {"text_encoder.embed.weight": torch.ones(3, 2).half()},
        replace(TINY, shift=2.5),
    )
    save_part(tmp_path / "joint.safetensors", whole, {"model": config}, int8=False)
    assert convert(tmp_path / "joint.safetensors", tmp_path / "s.safetensors", "--split") == 0
    parts = [tmp_path / f"s_{one}.safetensors" for one in ("video", "audio")]
    assert load_model(parts[1])[1] == replace(config, streams=AV(None, config.streams.audio))
    assert load_model(parts)[1] == config
    assert convert(*parts, tmp_path / "again.safetensors", "--merge") == 0
    assert same(read_tensors(tmp_path / "again.safetensors"), whole)
    assert load_model(tmp_path / "again.safetensors")[1] == config
    capsys.readouterr()
    assert convert(*parts, tmp_path / "b.safetensors") == 2
    assert convert(parts[0], parts[0], tmp_path / "b.safetensors", "--merge") == 2
    assert convert(parts[0], tmp_path / "b.safetensors", "--split") == 2
    said = capsys.readouterr().err.splitlines()
    assert "--merge makes one file of several" in said[0] and "another file holds already" in said[1]
    assert "no two streams" in said[2] and not (tmp_path / "b.safetensors").exists()


def test_a_lora_is_added_for_good_as_the_loader_adds_it(tmp_path: Path) -> None:
    whole = weights_of(TINY, torch.float32)
    save_part(tmp_path / "m.safetensors", whole, {"model": TINY}, int8=False)
    layer = "video_model.blocks.0.self_attn.q"
    down, up = (
        torch.randn(4, whole[f"{layer}.weight"].shape[1]),
        torch.randn(whole[f"{layer}.weight"].shape[0], 4),
    )
    lora = {f"{PREFIX}{layer}.lora_down.weight": down, f"{PREFIX}{layer}.lora_up.weight": up}
    lora[f"{PREFIX}audio_model.head.modulation.diff"] = torch.ones_like(whole["audio_model.head.modulation"])
    save_tensors(tmp_path / "l.safetensors", lora)
    given = ("--lora", f"{tmp_path / 'l.safetensors'}=0.5,sound:0")
    assert convert(tmp_path / "m.safetensors", tmp_path / "a.safetensors", *given) == 0
    model, _ = load_model(tmp_path / "m.safetensors")
    apply_lora(model, lora, dict.fromkeys(PARTS, 0.5) | {"sound": 0.0}, "l")
    made = read_tensors(tmp_path / "a.safetensors")
    for name, one in model.state_dict().items():
        torch.testing.assert_close(made[name], one.detach(), rtol=1e-6, atol=1e-6)
    assert not torch.equal(made[f"{layer}.weight"], whole[f"{layer}.weight"])


def mistakes(folder: Path, wan: Path) -> dict[str, tuple[list[object], str]]:
    """Name: (arguments, a part of the sentence)."""
    large = read_tensors(wan) | {"head.head.bias": torch.full((192,), 7e4)}
    save_tensors(folder / "large.safetensors", large)
    save_tensors(folder / "foreign.safetensors", {"unet": torch.ones(2)})
    save_tensors(folder / "lora.safetensors", {f"{PREFIX}x.diff": torch.ones(2)})
    fp8 = {name: one.to(torch.float8_e4m3fn) for name, one in read_tensors(wan).items()}
    save_tensors(folder / "fp8.safetensors", fp8)
    save_tensors(
        folder / "whole.safetensors", read_tensors(wan) | {"head.head.weight": torch.ones(192, 128).byte()}
    )
    save_tensors(folder / "half.safetensors", fp8 | {"scaled_fp8": torch.empty(0, dtype=torch.float8_e4m3fn)})
    layer = "video_model.head.modulation"
    save_tensors(folder / "fits.safetensors", {f"{PREFIX}{layer}.diff": torch.ones(1, 2, 128)})
    out = folder / "out.safetensors"
    return {
        "missing": ([folder / "gone.safetensors", out], "there is no file"),
        "foreign": ([folder / "foreign.safetensors", out], "holds nothing that this project knows"),
        "a LoRA": ([folder / "lora.safetensors", out], "is a LoRA; name the model"),
        "too large for fp16": (
            [folder / "large.safetensors", out, "--dtype", "fp16"],
            "video_model.head.head.bias holds 70000, for which float16 has no room; use bf16",
        ),
        "bytes": ([folder / "whole.safetensors", out, "--dtype", "bf16"], "head.head.weight is U8"),
        "no scale": ([folder / "half.safetensors", out], "its own scale is missing"),
        "no pickle": ([wan, folder / "out.pth"], "must end in .safetensors"),
        "onto itself": ([wan, wan], "is a source"),
        "a LoRA that does not fit": ([wan, out, "--lora", folder / "lora.safetensors"], "keys have no place"),
        "a LoRA on fp8": (
            [folder / "fp8.safetensors", out, "--lora", folder / "fits.safetensors"],
            "cannot be added to fp8 or int8 as it is",
        ),
    }


def test_what_cannot_be_is_one_sentence_and_no_file(wan: Path, tmp_path: Path, capsys) -> None:
    before = read_tensors(wan)
    for name, (args, sentence) in mistakes(tmp_path, wan).items():
        files = sorted(tmp_path.iterdir())
        assert convert(*args) == 2, name
        lines = capsys.readouterr().err.replace("\r", "\n").splitlines()  # a slow machine shows a bar too
        said = [line for line in lines if line.startswith("unitalk: ")]
        assert len(said) == 1 and sentence in said[0], (name, lines)
        assert sorted(tmp_path.iterdir()) == files, name
    assert same(read_tensors(wan), before)


def test_a_head_says_what_the_file_has_and_safetensors_read_it(wan: Path, tmp_path: Path) -> None:
    save_part(wan, read_tensors(wan), {"model": WAN_SMALL}, int8=False)
    assert convert(wan, tmp_path / "a.safetensors") == 0
    assert same(read_tensors(tmp_path / "a.safetensors"), read_tensors(wan))
    assert json.loads(read_metadata(tmp_path / "a.safetensors")["unitalk"]) == {
        "model": json.loads(json.dumps(WAN_SMALL.to_json()))
    }
    entries = open_weights(tmp_path / "a.safetensors").entries
    assert entries == open_weights(wan).entries


GROWTH = """
import resource, sys
from unitalk_core.weights.convert import convert
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
convert([sys.argv[1]], sys.argv[2], dtype=sys.argv[3])
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no getrusage")
@pytest.mark.parametrize("dtype", ["bf16", "fp8_scaled"])
def test_memory_grows_by_a_few_tensors_however_large_the_file(root, tmp_path: Path, dtype: str) -> None:
    entries = {name: Entry(one.dtype, tuple(one.shape)) for name, one in weights_of(WAN_SMALL).items()}
    largest = Entry(torch.float16, (2048, 2048))  # 8 MiB, 16 in float32
    entries |= {f"video_model.blocks.{i}.ffn.0.weight": largest for i in range(36)}
    write_head(tmp_path / "large.safetensors", entries)
    assert (tmp_path / "large.safetensors").stat().st_size > 300e6
    command = [
        sys.executable,
        "-c",
        GROWTH,
        tmp_path / "large.safetensors",
        tmp_path / "out.safetensors",
        dtype,
    ]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 < 16 * largest.bytes
