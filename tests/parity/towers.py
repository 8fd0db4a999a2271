"""Joint models built from a golden case: its configuration in our words, its weights by the real loaders."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from unitalk_core.av import AV
from unitalk_core.config import OVI_FORMAT, ModelConfig, StreamConfig
from unitalk_core.models.mmdit import JointDiT
from unitalk_core.weights.files import load_weights, read_tensors
from unitalk_core.weights.keymaps import find_part

from .goldens import Case

BUILT_IN = {"qk_norm": True, "cross_attn_norm": True, "window_size": [-1, -1]}


def stream_config(config: dict[str, Any]) -> StreamConfig:
    """The reference's constructor arguments -> ours."""
    assert all(config.get(name, value) == value for name, value in BUILT_IN.items()), config
    patch = (*config["patch_size"], 1, 1)[:3]
    reference = {}
    if "additional_emb_dim" in config:
        length = config["additional_emb_length"]
        reference = {
            "reference": "mlp",
            "reference_dim": config["additional_emb_dim"],
            "reference_len": length,
        }
    return StreamConfig(
        width=config["dim"],
        heads=config["num_heads"],
        depth=config["num_layers"],
        ffn_width=config["ffn_dim"],
        in_channels=config["in_dim"],
        out_channels=config["out_dim"],
        text_dim=config["text_dim"],
        text_len=config["text_len"],
        freq_dim=config["freq_dim"],
        patch=patch,
        input="patch" if len(config["patch_size"]) == 3 else "conv",
        rope_scale=config.get("temporal_rope_scaling_factor", 1.0),
        eps=config["eps"],
        **reference,
    )


def build(case: Case) -> JointDiT:
    """The model of a case, from its own weights file."""
    config = case.config
    if "video" in config:
        streams = AV(stream_config(config["video"]), stream_config(config["audio"]))
    else:
        one = stream_config(config)
        streams = AV(one, None) if one.input == "patch" else AV(None, one)
    channels = streams.map(lambda stream: stream.out_channels)
    clip = replace(OVI_FORMAT, video_channels=channels.video or 1, audio_channels=channels.audio or 1)
    coupling = "fusion" if "video" in config else "joint"
    model = JointDiT(ModelConfig(streams=streams, format=clip, coupling=coupling))
    tensors = read_tensors(case.weights_path)
    load_weights(model, find_part(tensors, "model", case.name).take(tensors), case.name)
    return model.eval()


def batched(rows: Tensor) -> Tensor:
    """One sample -> a batch of one."""
    return rows.unsqueeze(0)


def audio_latent(tokens: Tensor) -> Tensor:
    """Ovi's audio tokens (n, c) -> latent (1, c, n)"""
    return tokens.T.unsqueeze(0)
