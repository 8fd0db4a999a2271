"""What weights are called in other people's files, as tables, and how a file is recognised by its names.

Our own names are Wan2.2's under `video_model.` and `audio_model.`, MMAudio's, BigVGAN's and transformers'.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
Table = tuple[tuple[str, str], ...]  # (regular expression, replacement), applied in this order to every name

# Wan2.2 as diffusers repackages it (WanTransformer3DModel). Wan's norm3 is diffusers' norm2.
DIFFUSERS_WAN: Table = (
    (r"^condition_embedder\.time_embedder\.linear_1\.", "time_embedding.0."),
    (r"^condition_embedder\.time_embedder\.linear_2\.", "time_embedding.2."),
    (r"^condition_embedder\.text_embedder\.linear_1\.", "text_embedding.0."),
    (r"^condition_embedder\.text_embedder\.linear_2\.", "text_embedding.2."),
    (r"^condition_embedder\.time_proj\.", "time_projection.1."),
    (r"^condition_embedder\.image_embedder\.norm1\.", "img_emb.proj.0."),
    (r"^condition_embedder\.image_embedder\.ff\.net\.0\.proj\.", "img_emb.proj.1."),
    (r"^condition_embedder\.image_embedder\.ff\.net\.2\.", "img_emb.proj.3."),
    (r"^condition_embedder\.image_embedder\.norm2\.", "img_emb.proj.4."),
    (r"^proj_out\.", "head.head."),
    (r"^scale_shift_table$", "head.modulation"),
    (r"\.scale_shift_table$", ".modulation"),
    (r"\.norm2\.", ".norm3."),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"\.add_([kv])_proj\.", r".\1_img."),
    (r"\.norm_added_k\.", ".norm_k_img."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.to_out\.0\.", ".o."),
    (r"\.ffn\.net\.0\.proj\.", ".ffn.0."),
    (r"\.ffn\.net\.2\.", ".ffn.2."),
)

# Ovi's modulation is a module; the second K/V set that Wan2.1 has for images serves references here.
OVI: Table = (
    (r"(blocks\.\d+\.modulation)\.modulation$", r"\1"),
    (r"(^|\.)img_emb\.proj\.", r"\1reference_embedding."),
    (r"\.(k|v|norm_k)_img\.", r".\1_ref."),
)

WAN_UMT5: Table = (
    (r"^token_embedding\.", "shared."),
    (r"^norm\.", "encoder.final_layer_norm."),
    (r"^blocks\.(\d+)\.norm1\.", r"encoder.block.\1.layer.0.layer_norm."),
    (r"^blocks\.(\d+)\.norm2\.", r"encoder.block.\1.layer.1.layer_norm."),
    (r"^blocks\.(\d+)\.attn\.", r"encoder.block.\1.layer.0.SelfAttention."),
    (
        r"^blocks\.(\d+)\.pos_embedding\.embedding\.",
        r"encoder.block.\1.layer.0.SelfAttention.relative_attention_bias.",
    ),
    (r"^blocks\.(\d+)\.ffn\.gate\.0\.", r"encoder.block.\1.layer.1.DenseReluDense.wi_0."),
    (r"^blocks\.(\d+)\.ffn\.fc1\.", r"encoder.block.\1.layer.1.DenseReluDense.wi_1."),
    (r"^blocks\.(\d+)\.ffn\.fc2\.", r"encoder.block.\1.layer.1.DenseReluDense.wo."),
)

# Where a part stands inside a larger file, most specific first.
PREFIXES = {
    "model": ("model.diffusion_model.", "diffusion_model.", "model.model.", "net.", "model."),
    "video vae": ("vae.", "first_stage_model."),
    "audio vae": ("vae.", "tod.vae."),
    "vocoder": ("vocoder.", "tod.vocoder.", "vocoder.vocoder."),
    "text encoder": ("text_encoders.umt5xxl.transformer.", "text_encoders.umt5xxl.", "umt5xxl.transformer."),
}


@dataclass(frozen=True)
class Kind:
    """A family of files. Of those in KINDS the first that fits counts.

    marks: names that every such file has. table: how its names become ours; within: what goes before them.
    """

    name: str
    part: str  # key of PREFIXES
    marks: tuple[str, ...]
    table: Table = ()
    within: str = ""


KINDS = (
    Kind("joint model", "model", ("video_model.head.modulation", "audio_model.head.modulation"), OVI),
    Kind("video stream", "model", ("video_model.head.modulation",), OVI),
    Kind("audio stream", "model", ("audio_model.head.modulation",), OVI),
    Kind("Wan model", "model", ("head.modulation", "patch_embedding.weight"), OVI, "video_model."),
    Kind("Ovi audio tower", "model", ("head.modulation", "patch_embedding.0.weight"), OVI, "audio_model."),
    Kind(
        "Wan model (diffusers)",
        "model",
        ("scale_shift_table", "condition_embedder.time_proj.weight"),
        DIFFUSERS_WAN + OVI,
        "video_model.",
    ),
    Kind(
        "Wan2.2 video VAE",
        "video vae",
        ("decoder.middle.0.residual.0.gamma", "decoder.upsamples.0.upsamples.0.residual.2.weight"),
    ),
    Kind(
        "MMAudio VAE", "audio vae", ("data_mean", "encoder.conv_in.weight", "decoder.mid.attn_1.qkv.weight")
    ),
    Kind("BigVGAN", "vocoder", ("conv_pre.bias", "resblocks.0.activations.0.act.alpha", "ups.0.0.bias")),
    Kind("Vocos", "vocoder", ("embed.weight", "blocks.0.depthwise.weight", "skip.weight")),
    Kind("UMT5 (Wan)", "text encoder", ("token_embedding.weight", "blocks.0.ffn.gate.0.weight"), WAN_UMT5),
    Kind("UMT5", "text encoder", ("shared.weight", "encoder.block.0.layer.1.DenseReluDense.wi_1.weight")),
)


@dataclass(frozen=True)
class Found:
    """A part that a file holds, and the prefix its names have there."""

    kind: Kind
    prefix: str

    def take(self, tensors: Mapping[str, T]) -> dict[str, T]:
        """This part's tensors under our names; what stands beside the prefix belongs to other parts."""
        own = {
            name.removeprefix(self.prefix): one
            for name, one in tensors.items()
            if name.startswith(self.prefix)
        }
        renamed = rename(own, self.kind.table)
        return {self.kind.within + name: one for name, one in renamed.items()}


def recognise(names: Collection[str]) -> list[Found]:
    """Every part that a file with these names holds, at most one of each; empty for a foreign file."""
    names = set(names)
    found = (_find(names, part) for part in PREFIXES)
    return [one for one in found if one is not None]


def find_part(names: Collection[str], part: str, source: str | Path) -> Found:
    """Where `part` stands in a file; ValueError that says what was looked for if it is not there."""
    names = set(names)
    found = _find(names, part)
    if found is None:
        others = ", ".join(one.kind.name for one in recognise(names)) or "nothing this project knows"
        looked = " or ".join(f"{kind.name} ({kind.marks[0]})" for kind in KINDS if kind.part == part)
        raise ValueError(f"{source} holds no {part} but {others}; looked for {looked}")
    return found


def rename(tensors: Mapping[str, T], table: Table) -> dict[str, T]:
    """The same tensors under the names that `table` gives; ValueError if two of them would share one."""
    renamed: dict[str, T] = {}
    for name, one in tensors.items():
        new = name
        for pattern, replacement in table:
            new = re.sub(pattern, replacement, new)
        if new in renamed:
            raise ValueError(f"two tensors would be called {new}; one of them is {name}")
        renamed[new] = one
    return renamed


def _find(names: set[str], part: str) -> Found | None:
    for prefix in ("", *PREFIXES[part]):
        for kind in KINDS:
            if kind.part == part and all(prefix + mark in names for mark in kind.marks):
                return Found(kind, prefix)
    return None
