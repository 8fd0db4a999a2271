"""Mel, audio VAE and BigVGAN against the reference: every output of every case, whatever its tags."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from unitalk_core.models.audio_vae import AUDIO_VAE_16K, AUDIO_VAE_44K, AudioVAE, AudioVAEConfig, fold
from unitalk_core.models.mel import MEL_16K, MEL_44K, Mel, MelConfig
from unitalk_core.models.vocoder import BIGVGAN_16K, BIGVGAN_44K, BigVGAN, BigVGANConfig, fold_weight_norm
from unitalk_core.weights.files import load_weights, read_tensors
from unitalk_core.weights.loading import load_audio_vae, load_vocoder

from .goldens import Case, cases, check, manifests

pytestmark = pytest.mark.parity


def mel_config(data: Mapping[str, Any]) -> MelConfig:
    """From the reference's names. A window shorter than the transform is a variant this project has not."""
    assert data["win_size"] == data["n_fft"]
    return MelConfig(
        sample_rate=data["sampling_rate"],
        n_fft=data["n_fft"],
        hop=data["hop_size"],
        mels=data["num_mels"],
        low=data["fmin"],
        high=data["fmax"] or data["sampling_rate"] / 2,
        log=data["log"],
        floor=data["clip_val"],
        eps=data["mag_eps"],
    )


def vae_config(data: Mapping[str, Any]) -> AudioVAEConfig:
    return AudioVAEConfig(
        mels=data["data_dim"],
        latent_channels=data["embed_dim"],
        width=data["hidden_dim"],
        multipliers=tuple(data["ch_mult"]),
        blocks=data["num_res_blocks"],
        down=tuple(data["down_layers"]),
        kernel=data["kernel_size"],
        clip=data["clip_act"],
    )


def bigvgan_config(data: Mapping[str, Any]) -> BigVGANConfig:
    """Without the two `use_` fields (v1), the end has a bias and a tanh."""
    assert (data["resblock"], data["activation"], data["snake_logscale"]) == ("1", "snakebeta", True)
    return BigVGANConfig(
        mels=data["num_mels"],
        width=data["upsample_initial_channel"],
        rates=tuple(data["upsample_rates"]),
        kernels=tuple(data["upsample_kernel_sizes"]),
        block_kernels=tuple(data["resblock_kernel_sizes"]),
        block_dilations=tuple(map(tuple, data["resblock_dilation_sizes"])),
        final_bias=data.get("use_bias_at_final", True),
        final="tanh" if data.get("use_tanh_at_final", True) else "clamp",
    )


def input_of(case: Case, tag: str | None, number: str, kind: str) -> Tensor:
    """What an output was made from: out.TAG.x from in.TAG, out.x2 from in.KIND2, out.x from in.KIND."""
    return case.io[f"in.{tag or kind + number}"]


@cases("mmaudio_mel")
def test_mel_matches_the_reference(case: Case):
    mel, got = Mel(mel_config(case.config)), {}
    for name in case.outputs():
        tag, what, number = re.fullmatch(r"out\.(?:(\w+)\.)?(mel_basis|mel)(\d*)", name).groups()
        got[name] = mel.basis if what == "mel_basis" else mel(input_of(case, tag, number, "wav"))
    check(case, got)


def test_the_mel_presets_are_those_of_the_reference():
    assert MelConfig(sample_rate=16000, n_fft=1024, hop=256, mels=80, high=8000, log="log10") == MEL_16K
    assert MelConfig(sample_rate=44100, n_fft=2048, hop=512, mels=128, high=22050, log="ln") == MEL_44K


def vae_output(vae: AudioVAE, given: Tensor, what: str) -> Tensor:
    if what == "dec":
        return vae.decode(given)
    mean, log_variance = vae.posterior(given)
    made = {"mean": mean, "logvar": log_variance, "std": (0.5 * log_variance).exp()}
    return vae.decode(vae.encode(given)) if what == "dec_of_mean" else made[what]


@cases("mmaudio_vae")
def test_vae_matches_the_reference(case: Case):
    raw, got = read_tensors(case.weights_path), {}
    vae, folded = AudioVAE(vae_config(case.config)), fold(raw)
    load_weights(vae, folded, case.weights_path)
    for name in case.outputs():
        first, rest = name.removeprefix("out.").split(".", 1)
        got[name] = folded[rest] if first == "folded" else vae_output(vae, case.io[f"in.{first}"], rest)
    check(case, got)


@cases("mmaudio_vae")
def test_the_loader_reads_the_vae_off_its_file(case: Case):
    """All but the activations' bound, which weights do not tell."""
    config = replace(vae_config(case.config), clip=AUDIO_VAE_16K.clip)
    assert load_audio_vae(case.weights_path).config == config


def bigvgan_output(vocoder: BigVGAN, mel: Tensor, what: str) -> Tensor:
    if what == "conv_pre":
        return vocoder.conv_pre(mel)
    if what == "ups0_then_act0":
        return vocoder.resblocks[0].activations[0](vocoder.ups[0][0](vocoder.conv_pre(mel)))
    assert what in ("wav", "wav_weight_norm_removed")
    return vocoder(mel)[:, None]


@cases("bigvgan")
def test_bigvgan_matches_the_reference(case: Case):
    vocoder, got = BigVGAN(bigvgan_config(case.config)), {}
    load_weights(vocoder, fold_weight_norm(read_tensors(case.weights_path)), case.weights_path)
    for name in case.outputs():
        tag, what, number = re.fullmatch(r"out\.(?:(\w+)\.)?(ups0_then_act0|[a-z_]+)(\d*)", name).groups()
        got[name] = bigvgan_output(vocoder, input_of(case, tag, number, "mel"), what)
    check(case, got)


@cases("bigvgan")
def test_the_loader_builds_the_same_bigvgan(case: Case):
    """Where rates, dilations and end are those of the releases: weights do not tell them."""
    config = bigvgan_config(case.config)
    released = BIGVGAN_16K if config.final_bias else BIGVGAN_44K
    rates = tuple(kernel // 2 for kernel in config.kernels)
    if replace(config, rates=rates, final=released.final, block_dilations=released.block_dilations) != config:
        pytest.skip(f"{case.name} is no BigVGAN that weights alone describe")
    loaded = load_vocoder(case.weights_path)
    name = next(one for one in case.io if one.startswith("in."))
    assert loaded.config == config
    assert loaded(case.io[name]).shape[1] == case.io[name].shape[2] * config.hop


@pytest.mark.parametrize(
    ("name", "config"), [("mmaudio_vae_16k", AUDIO_VAE_16K), ("mmaudio_vae_44k", AUDIO_VAE_44K)]
)
def test_full_size_vae_has_the_names_and_shapes_of_the_checkpoint(name: str, config: AudioVAEConfig):
    manifest = read_manifest(name)
    with torch.device("meta"):
        have = AudioVAE(config).state_dict()
    assert {key: list(one.shape) for key, one in have.items()} == manifest["keys"]
    assert len(have) == manifest["tensors"] == 57
    assert sum(one.numel() for one in have.values()) == manifest["elements"]


@pytest.mark.parametrize(
    ("name", "config"), [("bigvgan_v1_16k", BIGVGAN_16K), ("bigvgan_v2_44k", BIGVGAN_44K)]
)
def test_full_size_bigvgan_is_the_checkpoint_with_its_weight_norm_folded(name: str, config: BigVGANConfig):
    manifest = read_manifest(name)
    with torch.device("meta"):
        stored = {key: torch.empty(shape) for key, shape in manifest["keys"].items()}
        have = BigVGAN(config).state_dict()
    assert len(stored) == manifest["tensors"]
    folded = fold_weight_norm(stored)
    assert {key: one.shape for key, one in have.items()} == {key: one.shape for key, one in folded.items()}


def read_manifest(name: str) -> dict[str, Any]:
    return manifests()[name]
