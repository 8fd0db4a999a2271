"""Names and shapes of every published file, through the tables, against our models at full size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from unitalk_core.config import OVI_720, UNITALK, WAN, ModelConfig
from unitalk_core.models.audio_vae import AUDIO_VAE_16K, AUDIO_VAE_44K, AudioVAE, AudioVAEConfig
from unitalk_core.models.mmdit import JointDiT
from unitalk_core.models.text_encoder import UMT5Config, UMT5Encoder
from unitalk_core.models.video_vae import WAN_VAE, VideoVAE
from unitalk_core.models.vocoder import BIGVGAN_16K, BIGVGAN_44K, BigVGAN, BigVGANConfig, fold_weight_norm
from unitalk_core.weights import shapes
from unitalk_core.weights.files import load_weights
from unitalk_core.weights.keymaps import find_part, recognise

from .goldens import manifests

PARTS = {
    "wan2.2_ti2v_5b": "model",
    "ovi_fusion_11b": "model",
    "wan2.2_vae": "video vae",
    "umt5_xxl_wan": "text encoder",
    "umt5_xxl_hf": "text encoder",
    "mmaudio_vae_16k": "audio vae",
    "mmaudio_vae_44k": "audio vae",
    "bigvgan_v1_16k": "vocoder",
    "bigvgan_v2_44k": "vocoder",
}


def file_of(name: str, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a published file, on the meta device."""
    keys = manifests()[name]["keys"]
    return {prefix + key: torch.empty(shape, device="meta") for key, shape in keys.items()}


def model_for(
    part: str, tensors: dict[str, Tensor], source: str
) -> tuple[nn.Module, object, dict[str, Tensor]]:
    """(empty model, its configuration, its weights) as the loaders derive them from names and shapes."""
    sizes = {name: tuple(one.shape) for name, one in tensors.items()}
    if part == "model":
        config = shapes.model_config(sizes, source)
        return JointDiT(config), config, tensors
    if part == "video vae":
        config = shapes.video_vae_config(sizes, source)
        return VideoVAE(config), config, tensors
    if part == "audio vae":
        config = AudioVAEConfig.from_tensors(tensors)
        return AudioVAE(config), config, tensors
    if part == "vocoder":
        tensors = fold_weight_norm(tensors)
        config = BigVGANConfig.from_tensors(tensors)
        return BigVGAN(config), config, tensors
    tensors.pop("encoder.embed_tokens.weight", None)
    config = UMT5Config.from_tensors(tensors)
    return UMT5Encoder(config), config, tensors


PUBLISHED = {
    "wan2.2_ti2v_5b": WAN,
    "ovi_fusion_11b": OVI_720,
    "wan2.2_vae": WAN_VAE,
    "mmaudio_vae_16k": AUDIO_VAE_16K,
    "mmaudio_vae_44k": AUDIO_VAE_44K,
    "bigvgan_v1_16k": BIGVGAN_16K,
    "bigvgan_v2_44k": BIGVGAN_44K,
    "umt5_xxl_wan": UMT5Config(),
    "umt5_xxl_hf": UMT5Config(),
}


@pytest.mark.parametrize("name", sorted(manifests()))
def test_a_published_file_is_recognised_and_fits_its_model_strictly(name: str) -> None:
    manifest, tensors = manifests()[name], file_of(name)
    assert len(tensors) == manifest["tensors"]
    assert sum(one.numel() for one in tensors.values()) == manifest["elements"]
    weights = find_part(tensors, PARTS[name], name).take(tensors)
    with torch.device("meta"):
        model, config, weights = model_for(PARTS[name], weights, name)
    load_weights(model, weights, name)
    assert config == PUBLISHED[name]


def test_only_one_part_is_found_in_each_file() -> None:
    for name in manifests():
        assert [found.kind.part for found in recognise(file_of(name))] == [PARTS[name]], name


def test_all_in_one_checkpoints_hold_several_parts() -> None:
    tensors = file_of("wan2.2_ti2v_5b", "model.diffusion_model.") | file_of("wan2.2_vae", "vae.")
    tensors |= file_of("umt5_xxl_hf", "text_encoders.umt5xxl.transformer.")
    assert [found.kind.part for found in recognise(tensors)] == ["model", "video vae", "text encoder"]
    weights = find_part(tensors, "model", "file").take(tensors)
    assert len(weights) == manifests()["wan2.2_ti2v_5b"]["tensors"]
    assert shapes.model_config({key: tuple(one.shape) for key, one in weights.items()}, "file") == WAN


def count(config: ModelConfig) -> int:
    with torch.device("meta"):
        return sum(one.numel() for one in JointDiT(config).parameters())


def test_full_size_parameter_counts() -> None:
    twin = 4_999_787_712 + 4_998_853_672  # Wan2.2-TI2V-5B and its twin with a linear input
    references = 1_133_015_040 + 2 * (40 * 3072 + 3072)  # second K/V set and the projection of a voice
    assert count(WAN) == 4_999_787_712
    assert count(UNITALK) == twin + references
