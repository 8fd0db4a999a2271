"""Published files at reduced size: their names of weights, their forms, two blocks of 256."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.utils
import folder_paths
import torch
from rig import HERE, core

SMALL = {
    "width": 256,
    "heads": 2,
    "depth": 2,
    "ffn_width": 320,
    "text_dim": 192,
}  # reads the miniature's text
FOLDER = Path(tempfile.mkdtemp())
folder_paths.add_model_folder_path("diffusion_models", str(FOLDER))

Weights = dict[str, torch.Tensor]


def config(name: str) -> Any:
    """OVI_720 and others of the core's, reduced."""
    full = getattr(core("unitalk_core.config"), name)
    return replace(full, streams=full.streams.map(lambda stream: replace(stream, **SMALL)))


def weights(name: str, seed: int = 0) -> Weights:
    """As if trained: no layer is zero."""
    mmdit = core("unitalk_core.models.mmdit")
    network = mmdit.JointDiT(config(name))
    mmdit.initialise(network, seed)
    generator = torch.Generator().manual_seed(seed)
    state = network.state_dict()
    return {key: one + 0.02 * torch.randn(one.shape, generator=generator) for key, one in state.items()}


def wan(seed: int = 0) -> Weights:
    return {key.removeprefix("video_model."): one for key, one in weights("WAN", seed).items()}


def ovi(seed: int = 0) -> Weights:
    """In Ovi's names: the modulation of a block is a module."""
    keymaps = core("unitalk_core.weights.keymaps")
    return keymaps.rename(weights("OVI_720", seed), keymaps.TO_OVI)


def stream(tensors: Weights, prefix: str) -> Weights:
    return {key: one for key, one in tensors.items() if key.startswith(prefix)}


def save(name: str, tensors: Mapping[str, torch.Tensor]) -> str:
    path = FOLDER / name
    path.parent.mkdir(parents=True, exist_ok=True)
    comfy.utils.save_torch_file({key: one.clone() for key, one in tensors.items()}, str(path))
    return name


def noise(latent: dict[str, Any], video_seed: int = 1, audio_seed: int = 2) -> Any:
    av = core("unitalk_core.av")
    video, audio = latent["samples"].unbind()
    return av.draw_noise(av.AV(tuple(video.shape), tuple(audio.shape)), av.AV(video_seed, audio_seed))


def normalised(latent: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Picture and sound as the core has them."""
    video, audio = latent["samples"].unbind()
    return HERE.model.model.latent_format.process_in(video), audio
