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
Names = tuple[tuple[str, str], ...]  # (their beginning of a name, ours), with {} for a number; see `table`

# Wan2.2 as diffusers repackages it (WanTransformer3DModel). Wan's norm3 is diffusers' norm2.
WAN_IN_DIFFUSERS: Names = (
    ("patch_embedding.", "patch_embedding."),
    ("condition_embedder.time_embedder.linear_1.", "time_embedding.0."),
    ("condition_embedder.time_embedder.linear_2.", "time_embedding.2."),
    ("condition_embedder.text_embedder.linear_1.", "text_embedding.0."),
    ("condition_embedder.text_embedder.linear_2.", "text_embedding.2."),
    ("condition_embedder.time_proj.", "time_projection.1."),
    ("condition_embedder.image_embedder.norm1.", "img_emb.proj.0."),
    ("condition_embedder.image_embedder.ff.net.0.proj.", "img_emb.proj.1."),
    ("condition_embedder.image_embedder.ff.net.2.", "img_emb.proj.3."),
    ("condition_embedder.image_embedder.norm2.", "img_emb.proj.4."),
    ("proj_out.", "head.head."),
    ("scale_shift_table", "head.modulation"),
    ("blocks.{}.scale_shift_table", "blocks.{}.modulation"),
    ("blocks.{}.norm2.", "blocks.{}.norm3."),
    ("blocks.{}.attn2.norm_added_k.", "blocks.{}.cross_attn.norm_k_img."),
    *((f"blocks.{{}}.attn2.add_{one}_proj.", f"blocks.{{}}.cross_attn.{one}_img.") for one in "kv"),
    *(
        (f"blocks.{{}}.{theirs}.{them}.", f"blocks.{{}}.{ours}.{us}.")
        for theirs, ours in (("attn1", "self_attn"), ("attn2", "cross_attn"))
        for them, us in (
            ("to_q", "q"),
            ("to_k", "k"),
            ("to_v", "v"),
            ("to_out.0", "o"),
            ("norm_q", "norm_q"),
            ("norm_k", "norm_k"),
        )
    ),
    ("blocks.{}.ffn.net.0.proj.", "blocks.{}.ffn.0."),
    ("blocks.{}.ffn.net.2.", "blocks.{}.ffn.2."),
)

# Ovi's modulation is a module; the second K/V set that Wan2.1 has for images serves references here.
OVI: Table = (
    (r"(blocks\.\d+\.modulation)\.modulation$", r"\1"),
    (r"(^|\.)img_emb\.proj\.", r"\1reference_embedding."),
    (r"\.(k|v|norm_k)_img\.", r".\1_ref."),
)
TO_OVI: Table = (
    (r"(blocks\.\d+\.modulation)$", r"\1.modulation"),
    (r"(^|\.)reference_embedding\.", r"\1img_emb.proj."),
    (r"\.(k|v|norm_k)_ref\.", r".\1_img."),
)

# Wan2.2's VAE as diffusers repackages it (AutoencoderKLWan with residual blocks).
RESIDUAL = (
    ("norm1", "residual.0"),
    ("conv1", "residual.2"),
    ("norm2", "residual.3"),
    ("conv2", "residual.6"),
    ("conv_shortcut", "shortcut"),
)
VAE_IN_DIFFUSERS: Names = (
    ("quant_conv.", "conv1."),
    ("post_quant_conv.", "conv2."),
    *((f"{half}.conv_in.", f"{half}.conv1.") for half in ("encoder", "decoder")),
    *((f"{half}.norm_out.", f"{half}.head.0.") for half in ("encoder", "decoder")),
    *((f"{half}.conv_out.", f"{half}.head.2.") for half in ("encoder", "decoder")),
    *((f"{half}.mid_block.attentions.0.", f"{half}.middle.1.") for half in ("encoder", "decoder")),
    *(
        (f"{half}.mid_block.resnets.{i}.{theirs}.", f"{half}.middle.{2 * i}.{ours}.")
        for half in ("encoder", "decoder")
        for i in (0, 1)
        for theirs, ours in RESIDUAL
    ),
    *(
        (f"{theirs}.{{}}.resnets.{{}}.{them}.", f"{ours}.{{}}.{last}.{{}}.{us}.")
        for theirs, ours, last in (
            ("encoder.down_blocks", "encoder.downsamples", "downsamples"),
            ("decoder.up_blocks", "decoder.upsamples", "upsamples"),
        )
        for them, us in RESIDUAL
    ),
    *(
        (f"{theirs}.{layer}.", f"{ours}.{layer}.")
        for theirs, ours in (
            ("encoder.down_blocks.{}.downsampler", "encoder.downsamples.{}.downsamples.2"),
            ("decoder.up_blocks.{}.upsampler", "decoder.upsamples.{}.upsamples.3"),
        )
        for layer in ("resample.1", "time_conv")
    ),
)

UMT5_IN_WAN: Names = (
    ("token_embedding.", "shared."),
    ("norm.", "encoder.final_layer_norm."),
    ("blocks.{}.norm1.", "encoder.block.{}.layer.0.layer_norm."),
    ("blocks.{}.norm2.", "encoder.block.{}.layer.1.layer_norm."),
    ("blocks.{}.attn.", "encoder.block.{}.layer.0.SelfAttention."),
    (
        "blocks.{}.pos_embedding.embedding.",
        "encoder.block.{}.layer.0.SelfAttention.relative_attention_bias.",
    ),
    ("blocks.{}.ffn.gate.0.", "encoder.block.{}.layer.1.DenseReluDense.wi_0."),
    ("blocks.{}.ffn.fc1.", "encoder.block.{}.layer.1.DenseReluDense.wi_1."),
    ("blocks.{}.ffn.fc2.", "encoder.block.{}.layer.1.DenseReluDense.wo."),
)


def table(names: Names) -> Table:
    """From their names to ours: each row is a beginning of a name, with {} for a number."""
    return tuple((_pattern(theirs), _filled(ours)) for theirs, ours in names)


def reversed_table(names: Names) -> Table:
    """From our names to theirs. A longer beginning comes before a shorter one."""
    rows = sorted(names, key=lambda row: -len(row[1]))
    return tuple((_pattern(ours), _filled(theirs)) for theirs, ours in rows)


def _pattern(beginning: str) -> str:
    end = "" if beginning.endswith(".") else "$"
    return "^" + r"(\d+)".join(map(re.escape, beginning.split("{}"))) + end


def _filled(beginning: str) -> str:
    first, *rest = beginning.split("{}")
    return first + "".join(rf"\{i}{part}" for i, part in enumerate(rest, 1))


DIFFUSERS_WAN, WAN_UMT5 = table(WAN_IN_DIFFUSERS), table(UMT5_IN_WAN)

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
        "Wan2.2 video VAE (diffusers)",
        "video vae",
        ("decoder.mid_block.resnets.0.norm1.gamma", "decoder.up_blocks.0.resnets.0.conv1.weight"),
        table(VAE_IN_DIFFUSERS),
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
        if near := _nearest(names, part):
            raise ValueError(f"{source} looks like a {near[0]} but lacks {near[1]}")
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


def _nearest(names: set[str], part: str) -> tuple[str, str] | None:
    """(kind, the mark that is missing) where all others are there; None if no kind is that near."""
    for prefix in ("", *PREFIXES[part]):
        for kind in (one for one in KINDS if one.part == part and len(one.marks) > 1):
            missing = [prefix + mark for mark in kind.marks if prefix + mark not in names]
            if len(missing) == 1:
                return kind.name, missing[0]
    return None
