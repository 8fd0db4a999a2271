"""Every published file is recognised and loads strictly; each broken one gets a sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from unitalk_core.__main__ import main
from unitalk_core.config import OVI_720, WAN
from unitalk_core.models.audio_vae import AUDIO_VAE_16K, AUDIO_VAE_44K
from unitalk_core.models.text_encoder import UMT5Config
from unitalk_core.models.video_vae import WAN_VAE
from unitalk_core.models.vocoder import BIGVGAN_16K, BIGVGAN_44K
from unitalk_core.weights.files import Entry
from unitalk_core.weights.identity import identify
from unitalk_core.weights.loading import (
    load_audio_vae,
    load_model,
    load_text_encoder,
    load_video_vae,
    load_vocoder,
)

from . import published
from .published import AUDIO_VAES, F16, F32, FP8, MODELS, TEXT_ENCODERS, VIDEO_VAES, VOCODERS, write

OTHERS = {
    **dict.fromkeys(VIDEO_VAES, (load_video_vae, WAN_VAE)),
    **dict.fromkeys(TEXT_ENCODERS, (load_text_encoder, UMT5Config())),
    "v1-16.pth": (load_audio_vae, AUDIO_VAE_16K),
    "v1-44.pth": (load_audio_vae, AUDIO_VAE_44K),
    "best_netG.pt": (load_vocoder, BIGVGAN_16K),
    "bigvgan_generator.pt": (load_vocoder, BIGVGAN_44K),
}
ALL = MODELS | VIDEO_VAES | TEXT_ENCODERS | AUDIO_VAES | VOCODERS


@pytest.mark.parametrize("name", MODELS)
def test_a_published_model_loads_by_name_strictly(tmp_path: Path, name: str) -> None:
    model, config = load_model(write(tmp_path, name, MODELS[name]()), device="meta")
    if not name.startswith("Ovi"):
        assert config == WAN
    else:
        assert config.markup == ("ovi-960" if "960" in name else "ovi-720")
        assert config.format.max_frames == (241 if "10s" in name else 121)
        assert replace(config, markup="ovi-720", format=OVI_720.format) == OVI_720
    assert all(one.dtype in (F16, F32, torch.bfloat16) for one in model.parameters())


@pytest.mark.parametrize("name", OTHERS)
def test_the_other_published_files_load_by_name_strictly(tmp_path: Path, name: str) -> None:
    load, config = OTHERS[name]
    assert load(write(tmp_path, name, ALL[name]()), device="meta").config == config


Q = "blocks.7.self_attn.q.weight"
SCALE = "blocks.7.self_attn.q.scale_weight"


def without(*names: str) -> Callable[[dict[str, Entry]], dict[str, Entry]]:
    return lambda entries: {name: one for name, one in entries.items() if name not in names}


def renamed(old: str, new: str) -> Callable[[dict[str, Entry]], dict[str, Entry]]:
    return lambda entries: {new if name == old else name: one for name, one in entries.items()}


def changed(name: str, dtype: torch.dtype = F16, shape: tuple[int, ...] = (3072, 3072)):
    return lambda entries: entries | {name: Entry(dtype, shape)}


BROKEN = {
    "a tensor is missing": (without(Q), f"1 missing ['video_model.{Q}']"),
    "a tensor has another name": (renamed(Q, Q + "s"), f"1 extra ['video_model.{Q}s']"),
    "what tells the kind has another name": (
        renamed("head.modulation", "head.mod"),
        "looks like a Wan model but lacks head.modulation",
    ),
    "what tells a size is missing": (without("text_embedding.0.weight"), "lacks text_embedding.0.weight"),
    "what tells a size has no axes": (changed("head.head.weight", shape=()), "layer of another shape"),
    "the last blocks are missing": (
        lambda entries: {name: one for name, one in entries.items() if not name.startswith("blocks.2")},
        "holds 20 of 30 blocks",
    ),
    "a tensor is of a larger model": (changed(Q, shape=(5120, 5120)), "(5120, 5120) for (3072, 3072)"),
    "it is a larger model": (
        lambda entries: entries | {"head.head.weight": Entry(F16, (64, 3072))},
        "makes 16 latent channels; Wan2.2-TI2V-5B makes 48",
    ),
    "two spellings are mixed": (
        changed("blocks.7.modulation.modulation", shape=(1, 6, 3072)),
        "two tensors would be called blocks.7.modulation",
    ),
    "two files are mixed": (changed("encoder.conv1.weight"), "1 extra ['video_model.encoder.conv1.weight']"),
    "a weight is of whole numbers": (changed(Q, torch.int32), f"such as video_model.{Q} (I32)"),
    "a weight is too precise": (changed(Q, torch.float64), f"such as video_model.{Q} (F64)"),
    "a scale is missing": (
        lambda entries: without(SCALE)(published.scaled(entries)),
        f"{Q} is fp8 in a file with scales, and its own scale is missing",
    ),
    "a scaled weight is missing": (
        lambda entries: without(Q)(published.scaled(entries)),
        f"{SCALE} is the scale of an fp8 weight, and that weight is missing",
    ),
    "a scaled weight is not fp8": (
        lambda entries: published.scaled(entries) | {Q: Entry(F16, (3072, 3072))},
        f"{SCALE} is the scale of an fp8 weight, and that weight is float16",
    ),
    "a scale has another length": (
        lambda entries: published.scaled(entries) | {SCALE: Entry(F32, (7,))},
        "has a scale of (7,)",
    ),
    "it is a VAE": (lambda _: VIDEO_VAES["Wan2.2_VAE.pth"](), "holds no model but Wan2.2 video VAE"),
    "it is something else": (lambda _: {"unet.weight": Entry(FP8, (3,))}, "nothing this project knows"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_model_gets_one_sentence_with_what_and_where(tmp_path: Path, what: str) -> None:
    change, sentence = BROKEN[what]
    path = write(tmp_path, "wan.safetensors", change(published.wan(F16)))
    with pytest.raises(ValueError) as error:
        load_model(path, device="meta")
    said = str(error.value)
    assert sentence in said and "wan.safetensors" in said and "\n" not in said


def test_a_cut_off_or_missing_shard_is_named(tmp_path: Path) -> None:
    index = write(tmp_path, "model.safetensors.index.json", published.wan(F16))
    shard = tmp_path / "model-00002-of-00003.safetensors"
    with shard.open("r+b") as file:
        file.truncate(shard.stat().st_size - 1)
    with pytest.raises(ValueError, match=r"model-00002-of-00003\.safetensors is cut off"):
        load_model(index, device="meta")
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=r"model-00002-of-00003\.safetensors"):
        load_model(index, device="meta")
    published.write_head(shard, {"blocks.1.norm3.bias": Entry(F16, (3072,))})
    with pytest.raises(ValueError, match=r"index\.json says that model-00002.* holds .*, which is not there"):
        load_model(index, device="meta")


@pytest.mark.parametrize("name", ["umt5_xxl_fp8_e4m3fn_scaled.safetensors", "umt5_xxl_fp16.safetensors"])
def test_a_text_encoder_without_its_last_blocks_is_named(tmp_path: Path, name: str) -> None:
    whole = TEXT_ENCODERS[name]()
    entries = {key: one for key, one in whole.items() if not key.startswith("encoder.block.23")}
    with pytest.raises(ValueError, match=r"holds 23 of 24 blocks"):
        load_text_encoder(write(tmp_path, name, entries), device="meta")


WAN_NEEDS = "UMT5-XXL, the Wan2.2 video VAE"
INFO = {
    "wan2.2_ti2v_5B_fp8_scaled.safetensors": ("Wan model", WAN_NEEDS, 9_999_575_424),
    "Ovi/model_960x960_10s.safetensors": (
        "joint model",
        f"{WAN_NEEDS}, MMAudio's VAE of 16 kHz with BigVGAN",
        2 * 11_660_753_108,
    ),
    "v1-44.pth": ("MMAudio VAE", "a vocoder of its rate, or Griffin-Lim", 4 * 305_479_938),
    "vae/diffusion_pytorch_model.safetensors": ("Wan2.2 video VAE (diffusers)", "", 4 * 704_688_668),
    "models_t5_umt5-xxl-enc-bf16.pth": (
        "UMT5 (Wan)",
        "its tokenizer: the folder google/umt5-xxl beside it",
        2 * 5_680_910_336,
    ),
}


@pytest.mark.parametrize("name", INFO)
def test_a_file_says_what_it_is_what_it_needs_and_what_it_takes(tmp_path: Path, name: str) -> None:
    (found,) = identify(write(tmp_path, name, ALL[name]()))
    kind, needs, size = INFO[name]
    assert (found.kind.name, found.needs, found.fault) == (kind, needs, None)
    assert found.loaded_bytes == pytest.approx(size, rel=1e-4)


def test_info_says_that_a_file_is_not_whole(tmp_path: Path, capsys) -> None:
    path = write(tmp_path, "wan.safetensors", without(Q)(published.wan(F16)))
    assert main(["info", str(path)]) == 0
    said = capsys.readouterr().out
    assert "Wan model" in said and "1 missing" in said and "9.98 GB once loaded" in said
    write(tmp_path, "model.safetensors.index.json", published.wan(F16))
    assert main(["info", str(tmp_path / "model.safetensors.index.json")]) == 0
    said = capsys.readouterr().out
    assert "yes, it loads strictly" in said and "picture" in said and "F16 x 825" in said
