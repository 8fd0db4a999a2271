"""The video VAE against the reference: every clip of every case, and the names of the full-size file."""

from __future__ import annotations

import pytest
import torch

from unitalk_core.models.video_vae import WAN_VAE, VideoVAE, VideoVAEConfig
from unitalk_core.weights.files import load_weights, read_tensors
from unitalk_core.weights.keymaps import find_part

from .goldens import Case, cases, check, manifests

pytestmark = pytest.mark.parity


def build(case: Case) -> VideoVAE:
    config = VideoVAEConfig(
        mean=tuple(case.io["in.mean"].tolist()),
        std=tuple(case.io["in.std"].tolist()),
        latent_channels=case.config["z_dim"],
        encoder_width=case.config["dim"],
        decoder_width=case.config["dec_dim"],
        multipliers=tuple(case.config["dim_mult"]),
        blocks=case.config["num_res_blocks"],
        temporal_down=tuple(case.config["temperal_downsample"]),
    )
    vae = VideoVAE(config)
    tensors = read_tensors(case.weights_path)
    load_weights(vae, find_part(tensors, "video vae", case.name).take(tensors), case.name)
    return vae.eval()


@pytest.mark.parametrize("chunk", [1, 64])
@cases("wan2.2_vae")
def test_encode_and_decode_match_the_reference(case: Case, chunk: int):
    vae, got = build(case), {}
    for name in case.io:
        if name.startswith("in.") and name.endswith(".x"):
            tag = name.removeprefix("in.").removesuffix(".x")
            # the reference drops frames beyond 4n+1 without a word; ours refuses them
            clip = case.io[name]
            clip = clip[:, :, : clip.shape[2] - (clip.shape[2] - 1) % vae.config.frame_stride]
            got[f"out.{tag}.z"] = vae.encode(clip, chunk)
            got[f"out.{tag}.z_raw"] = vae.encode_raw(clip, chunk)
            got[f"out.{tag}.dec"] = vae.decode_raw(vae.denormalise(case.io[f"out.{tag}.z"]), chunk)
    check(case, got)


def test_full_size_has_the_names_and_shapes_of_the_checkpoint():
    manifest = manifests()["wan2.2_vae"]
    with torch.device("meta"):
        have = VideoVAE(WAN_VAE).state_dict()
    assert {name: list(tensor.shape) for name, tensor in have.items()} == manifest["keys"]
    assert len(have) == manifest["tensors"]
    assert sum(tensor.numel() for tensor in have.values()) == manifest["elements"]
