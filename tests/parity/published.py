"""Files as they are published, at full size but without data: names, shapes and types are the real ones.

A .safetensors file here is its head and a hole; in a pickle each tensor is one number, repeated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from unitalk_core.weights.files import DTYPE_NAMES, Entry
from unitalk_core.weights.keymaps import (
    UMT5_IN_WAN,
    VAE_IN_DIFFUSERS,
    WAN_IN_DIFFUSERS,
    rename,
    reversed_table,
)

from .goldens import manifests

F32, F16, BF16, FP8 = torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn
Entries = dict[str, Entry]
COMFY_PREFIX = "model.diffusion_model."
IN_BLOCKS = (".self_attn.", ".cross_attn.", ".ffn.", ".SelfAttention.", ".DenseReluDense.")


def manifest(name: str, dtype: torch.dtype) -> Entries:
    return {key: Entry(dtype, tuple(shape)) for key, shape in manifests()[name]["keys"].items()}


def in_fp8(entries: Entries) -> Entries:
    """Matrices of the blocks in fp8, as community files have them: no scales."""
    return entries | {name: one._replace(dtype=FP8) for name, one in entries.items() if is_matrix(name, one)}


def is_matrix(name: str, one: Entry) -> bool:
    inside = any(part in name for part in IN_BLOCKS) and "bias" not in name
    return inside and len(one.shape) == 2 and name.endswith("weight")


def scaled(entries: Entries) -> Entries:
    """The same as ComfyUI has it: a scale for each."""
    fp8 = in_fp8(entries)
    scales = {name.removesuffix("weight") + "scale_weight" for name, one in fp8.items() if one.dtype == FP8}
    return fp8 | dict.fromkeys(sorted(scales), Entry(F32, ())) | {"scaled_fp8": Entry(FP8, (0,))}


def prefixed(entries: Entries, prefix: str) -> Entries:
    return {prefix + name: one for name, one in entries.items()}


def wan(dtype: torch.dtype) -> Entries:
    return manifest("wan2.2_ti2v_5b", dtype)


def umt5(dtype: torch.dtype) -> Entries:
    return manifest("umt5_xxl_hf", dtype)


PIECES = {"spiece_model": Entry(torch.uint8, (4548313,))}
MODELS = {
    "Wan-AI/diffusion_pytorch_model.safetensors.index.json": lambda: wan(F32),
    "wan2.2_ti2v_5B_fp16.safetensors": lambda: wan(F16),
    "wan2.2_ti2v_5B_bf16.safetensors": lambda: wan(BF16),
    "wan2.2_ti2v_5B_fp8_e4m3fn.safetensors": lambda: in_fp8(wan(F16)),
    "wan2.2_ti2v_5B_fp8_scaled.safetensors": lambda: scaled(wan(F16)),
    "wan_all_in_one.safetensors": lambda: prefixed(scaled(wan(BF16)), COMFY_PREFIX),
    "transformer/diffusion_pytorch_model.safetensors.index.json": lambda: rename(
        wan(BF16), reversed_table(WAN_IN_DIFFUSERS)
    ),
    "Ovi/model.safetensors": lambda: manifest("ovi_fusion_11b", BF16),
    "Ovi/model_960x960.safetensors": lambda: manifest("ovi_fusion_11b", BF16),
    "Ovi/model_960x960_10s.safetensors": lambda: manifest("ovi_fusion_11b", BF16),
    "Ovi/model_fp8_e4m3fn.safetensors": lambda: in_fp8(manifest("ovi_fusion_11b", BF16)),
}
VIDEO_VAES = {
    "Wan2.2_VAE.pth": lambda: manifest("wan2.2_vae", F32),
    "wan2.2_vae.safetensors": lambda: manifest("wan2.2_vae", F16),
    "vae/diffusion_pytorch_model.safetensors": lambda: rename(
        manifest("wan2.2_vae", F32), reversed_table(VAE_IN_DIFFUSERS)
    ),
}
TEXT_ENCODERS = {
    "models_t5_umt5-xxl-enc-bf16.pth": lambda: manifest("umt5_xxl_wan", BF16),
    "umt5-xxl-enc-bf16.safetensors": lambda: rename(umt5(BF16), reversed_table(UMT5_IN_WAN)),
    "umt5_xxl_fp16.safetensors": lambda: umt5(F16) | PIECES,
    "umt5_xxl_fp8_e4m3fn_scaled.safetensors": lambda: scaled(umt5(F16)) | PIECES,
    "text_encoder/model.safetensors.index.json": lambda: umt5(BF16),
}
AUDIO_VAES = {
    "v1-16.pth": lambda: manifest("mmaudio_vae_16k", F32),
    "v1-44.pth": lambda: manifest("mmaudio_vae_44k", F32),
}
VOCODERS = {
    "best_netG.pt": lambda: manifest("bigvgan_v1_16k", F32),
    "bigvgan_generator.pt": lambda: manifest("bigvgan_v2_44k", F32),
}


def write(folder: Path, name: str, entries: Mapping[str, Entry]) -> Path:
    """The file, or the index and its three shards."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".index.json"):
        write_shards(path, entries)
    elif path.suffix == ".safetensors":
        write_head(path, entries)
    else:
        tensors = {key: torch.zeros((), dtype=one.dtype).expand(one.shape) for key, one in entries.items()}
        torch.save({"generator": tensors} if path.suffix == ".pt" else tensors, path)
    return path


def write_shards(index: Path, entries: Mapping[str, Entry]) -> None:
    stem, names = index.name.removesuffix(".safetensors.index.json"), list(entries)
    table, third = {}, -(-len(names) // 3)
    for i in range(3):
        shard = f"{stem}-{i + 1:05}-of-00003.safetensors"
        part = names[i * third : (i + 1) * third]
        write_head(index.with_name(shard), {name: entries[name] for name in part})
        table |= dict.fromkeys(part, shard)
    index.write_text(json.dumps({"metadata": {}, "weight_map": table}))


def write_head(path: Path, entries: Mapping[str, Entry]) -> None:
    table, end = {}, 0
    for name, one in sorted(entries.items(), key=lambda item: -item[1].dtype.itemsize):
        start, end = end, end + one.bytes
        table[name] = {
            "dtype": DTYPE_NAMES[one.dtype],
            "shape": list(one.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
