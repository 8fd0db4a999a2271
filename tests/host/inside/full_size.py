"""Published files at reduced size: their names of weights, their forms, two blocks of 256."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import comfy.utils
import folder_paths
import torch
from reduced import all_drawn, manifest, reduced
from rig import HERE, core

SMALL = {3072: 256, 18432: 6 * 256, 14336: 320, 8192: 768, 4096: 192}  # reads the miniature's text
BLOCKS = 2
FOLDER = Path(tempfile.mkdtemp())
folder_paths.add_model_folder_path("diffusion_models", str(FOLDER))

Weights = dict[str, torch.Tensor]


def wan(seed: int = 0) -> Weights:
    return all_drawn(reduced(manifest("wan2.2_ti2v_5b"), SMALL, BLOCKS), seed)


def ovi(seed: int = 0) -> Weights:
    return all_drawn(reduced(manifest("ovi_fusion_11b"), SMALL, BLOCKS), seed)


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
