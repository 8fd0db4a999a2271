"""Foreign names become ours by tables."""

from __future__ import annotations

import pytest
import torch

from unitalk_core.weights.keymaps import (
    DIFFUSERS_WAN,
    OVI,
    UMT5_IN_WAN,
    VAE_IN_DIFFUSERS,
    WAN_IN_DIFFUSERS,
    WAN_UMT5,
    find_part,
    recognise,
    rename,
    reversed_table,
    table,
)

# Names of one block and of what stands outside the blocks, as diffusers' WanTransformer3DModel has them.
DIFFUSERS = {
    "condition_embedder.time_embedder.linear_1.weight": "time_embedding.0.weight",
    "condition_embedder.time_embedder.linear_2.bias": "time_embedding.2.bias",
    "condition_embedder.text_embedder.linear_1.weight": "text_embedding.0.weight",
    "condition_embedder.text_embedder.linear_2.weight": "text_embedding.2.weight",
    "condition_embedder.time_proj.weight": "time_projection.1.weight",
    "patch_embedding.weight": "patch_embedding.weight",
    "scale_shift_table": "head.modulation",
    "proj_out.weight": "head.head.weight",
    "blocks.11.scale_shift_table": "blocks.11.modulation",
    "blocks.11.norm2.weight": "blocks.11.norm3.weight",
    "blocks.11.norm2.bias": "blocks.11.norm3.bias",
    "blocks.11.attn1.to_q.weight": "blocks.11.self_attn.q.weight",
    "blocks.11.attn1.to_out.0.bias": "blocks.11.self_attn.o.bias",
    "blocks.11.attn1.norm_q.weight": "blocks.11.self_attn.norm_q.weight",
    "blocks.11.attn2.to_k.bias": "blocks.11.cross_attn.k.bias",
    "blocks.11.attn2.to_v.scale_weight": "blocks.11.cross_attn.v.scale_weight",
    "blocks.11.attn2.norm_k.weight": "blocks.11.cross_attn.norm_k.weight",
    "blocks.11.attn2.add_k_proj.weight": "blocks.11.cross_attn.k_ref.weight",
    "blocks.11.attn2.norm_added_k.weight": "blocks.11.cross_attn.norm_k_ref.weight",
    "blocks.11.ffn.net.0.proj.weight": "blocks.11.ffn.0.weight",
    "blocks.11.ffn.net.2.bias": "blocks.11.ffn.2.bias",
}
OVI_NAMES = {
    "audio_model.blocks.0.modulation.modulation": "audio_model.blocks.0.modulation",
    "audio_model.head.modulation": "audio_model.head.modulation",
    "audio_model.blocks.0.cross_attn.k_img.weight": "audio_model.blocks.0.cross_attn.k_ref.weight",
    "blocks.2.cross_attn.norm_k_img.weight": "blocks.2.cross_attn.norm_k_ref.weight",
    "blocks.2.cross_attn.k_fusion.weight": "blocks.2.cross_attn.k_fusion.weight",
    "img_emb.proj.0.weight": "reference_embedding.0.weight",
    "video_model.img_emb.proj.4.bias": "video_model.reference_embedding.4.bias",
}
UMT5 = {
    "token_embedding.weight": "shared.weight",
    "norm.weight": "encoder.final_layer_norm.weight",
    "blocks.3.norm1.weight": "encoder.block.3.layer.0.layer_norm.weight",
    "blocks.3.attn.o.weight": "encoder.block.3.layer.0.SelfAttention.o.weight",
    "blocks.3.pos_embedding.embedding.weight": (
        "encoder.block.3.layer.0.SelfAttention.relative_attention_bias.weight"
    ),
    "blocks.3.norm2.weight": "encoder.block.3.layer.1.layer_norm.weight",
    "blocks.3.ffn.gate.0.weight": "encoder.block.3.layer.1.DenseReluDense.wi_0.weight",
    "blocks.3.ffn.fc1.weight": "encoder.block.3.layer.1.DenseReluDense.wi_1.weight",
    "blocks.3.ffn.fc2.weight": "encoder.block.3.layer.1.DenseReluDense.wo.weight",
}
# As diffusers' AutoencoderKLWan has them where it is built for Wan2.2.
DIFFUSERS_VAE = {
    "quant_conv.weight": "conv1.weight",
    "post_quant_conv.bias": "conv2.bias",
    "encoder.conv_in.weight": "encoder.conv1.weight",
    "encoder.down_blocks.1.resnets.0.conv_shortcut.weight": (
        "encoder.downsamples.1.downsamples.0.shortcut.weight"
    ),
    "encoder.down_blocks.0.resnets.1.norm1.gamma": "encoder.downsamples.0.downsamples.1.residual.0.gamma",
    "encoder.down_blocks.0.downsampler.resample.1.weight": (
        "encoder.downsamples.0.downsamples.2.resample.1.weight"
    ),
    "encoder.down_blocks.2.downsampler.time_conv.bias": "encoder.downsamples.2.downsamples.2.time_conv.bias",
    "encoder.mid_block.resnets.1.conv2.bias": "encoder.middle.2.residual.6.bias",
    "encoder.mid_block.attentions.0.to_qkv.weight": "encoder.middle.1.to_qkv.weight",
    "encoder.norm_out.gamma": "encoder.head.0.gamma",
    "decoder.mid_block.resnets.0.norm2.gamma": "decoder.middle.0.residual.3.gamma",
    "decoder.up_blocks.3.resnets.2.conv1.weight": "decoder.upsamples.3.upsamples.2.residual.2.weight",
    "decoder.up_blocks.0.upsampler.time_conv.weight": "decoder.upsamples.0.upsamples.3.time_conv.weight",
    "decoder.conv_out.weight": "decoder.head.2.weight",
}


@pytest.mark.parametrize(
    ("table", "names"),
    [
        (DIFFUSERS_WAN + OVI, DIFFUSERS),
        (OVI, OVI_NAMES),
        (WAN_UMT5, UMT5),
        (table(VAE_IN_DIFFUSERS), DIFFUSERS_VAE),
    ],
    ids=["diffusers", "ovi", "umt5", "vae"],
)
def test_names_become_ours(table, names: dict[str, str]) -> None:
    assert rename({name: name for name in names}, table) == {ours: name for name, ours in names.items()}


@pytest.mark.parametrize("names", [UMT5_IN_WAN, VAE_IN_DIFFUSERS, WAN_IN_DIFFUSERS])
def test_there_and_back_is_where_it_was(names) -> None:
    theirs = {one.format(*"1234") + ("weight" if one.endswith(".") else "") for one, _ in names}
    ours = rename({name: name for name in theirs}, table(names))
    assert rename(ours, reversed_table(names)) == {name: name for name in theirs}


@pytest.mark.parametrize("table", [OVI, WAN_UMT5], ids=["ovi", "umt5"])
def test_renaming_twice_changes_nothing_more(table) -> None:
    once = rename({name: 0 for name in (*OVI_NAMES, *UMT5)}, OVI + WAN_UMT5)
    assert rename(once, table) == once


def test_two_tensors_never_share_a_name() -> None:
    twice = {"blocks.0.modulation": 0, "blocks.0.modulation.modulation": 1}
    with pytest.raises(ValueError, match=r"two tensors would be called blocks\.0\.modulation"):
        rename(twice, OVI)


def test_a_prefix_is_taken_off_and_its_neighbours_left() -> None:
    names = ["vae.data_mean", "vae.encoder.conv_in.weight", "vae.decoder.mid.attn_1.qkv.weight"]
    names += ["vocoder.conv_pre.bias", "vocoder.ups.0.0.bias", "vocoder.resblocks.0.activations.0.act.alpha"]
    names += ["mel_converter.mel_basis"]
    tensors = dict.fromkeys(names, torch.zeros(1))
    assert [found.kind.name for found in recognise(tensors)] == ["MMAudio VAE", "BigVGAN"]
    weights = find_part(tensors, "audio vae", "mmaudio.safetensors").take(tensors)
    assert sorted(weights) == ["data_mean", "decoder.mid.attn_1.qkv.weight", "encoder.conv_in.weight"]


def test_a_foreign_file_is_told_what_was_looked_for() -> None:
    with pytest.raises(
        ValueError, match=r"sd\.safetensors holds no model but nothing this project knows; looked for"
    ):
        find_part(["model.diffusion_model.input_blocks.0.0.weight"], "model", "sd.safetensors")
    vae = ["decoder.middle.0.residual.0.gamma", "decoder.upsamples.0.upsamples.0.residual.2.weight"]
    with pytest.raises(ValueError, match=r"holds no model but Wan2\.2 video VAE"):
        find_part(vae, "model", "vae.safetensors")
