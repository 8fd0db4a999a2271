"""Published files at reduced size: their names of weights, their forms, two blocks of 256."""

from __future__ import annotations

import json
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
    """Where the host finds it."""
    write(FOLDER, name, tensors)
    return name


def write(folder: Path, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """As its ending says: a pickle, a safetensors file, or two shards with their index."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".pth", ".pt"):
        torch.save(tensors, path)
    elif not name.endswith(".index.json"):
        comfy.utils.save_torch_file({key: one.clone() for key, one in tensors.items()}, str(path))
    else:
        names, table = list(tensors), {}
        for i in range(2):
            shard = f"model-{i + 1:05}-of-00002.safetensors"
            write(path.parent, shard, {key: tensors[key] for key in names[i::2]})
            table |= dict.fromkeys(names[i::2], shard)
        path.write_text(json.dumps({"metadata": {}, "weight_map": table}))


def scaled(tensors: Weights) -> Weights:
    """As ComfyUI's scaled fp8: the matrices of the blocks with a scale each, and a mark."""
    packed = dict(tensors)
    for key, one in tensors.items():
        if one.ndim == 2 and "block" in key and "bias" not in key:
            packed[key], scale = core("unitalk_core.weights.quantised").quantise_fp8(one)
            packed[key.removesuffix("weight") + "scale_weight"] = scale
    return packed | {"scaled_fp8": torch.empty(0, dtype=torch.float8_e4m3fn)}


def noise(latent: dict[str, Any], video_seed: int = 1, audio_seed: int = 2) -> Any:
    av = core("unitalk_core.av")
    video, audio = latent["samples"].unbind()
    return av.draw_noise(av.AV(tuple(video.shape), tuple(audio.shape)), av.AV(video_seed, audio_seed))


def normalised(latent: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Picture and sound as the core has them."""
    video, audio = latent["samples"].unbind()
    return HERE.model.model.latent_format.process_in(video), audio
