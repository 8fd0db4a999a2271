"""The options that say which model makes the clips, where, and how exactly."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..pipeline import Bundle

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
FLOAT8 = {"fp8_e4m3fn": "held", "fp8_e4m3fn_fast": "fast"}  # beside bfloat16
ATTENTION = ("cudnn", "flash", "efficient", "math")


def add_bundle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        default="tiny",
        help="tiny, which comes with the pack, or a folder like it, or one with the published files of a "
        "full-size model, its VAEs, vocoder and text encoder (tiny)",
    )
    add_lora(parser)
    add_placement(parser)


def add_lora(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="FILE[=STRENGTHS]",
        help="add a LoRA, such as train makes; may be repeated. Strength 1, or =0.8, or by part: "
        "=0.8,sound:0 (picture, sound, picture_to_sound, sound_to_picture, reference)",
    )


def add_placement(parser: argparse.ArgumentParser) -> None:
    where = parser.add_argument_group("memory and speed")
    where.add_argument("--device", help="cpu, cuda or cuda:1 (cpu for tiny, else cuda where it is there)")
    where.add_argument(
        "--dtype",
        choices=(*DTYPES, *FLOAT8),
        help="of the weights (bf16 on a GPU, else fp32); fp8_e4m3fn: a byte for each number of the "
        "transformer's matrices; fp8_e4m3fn_fast: it multiplies so too, less exactly",
    )
    where.add_argument(
        "--offload",
        choices=("auto", "none", "parts", "blocks"),
        help="what is on the device only while it is needed: each part of a full-size model, or also each "
        "block of its transformer (auto: as little as fits)",
    )
    where.add_argument(
        "--attention", choices=ATTENTION, help="the kernel that attends (default: PyTorch's choice)"
    )
    where.add_argument(
        "--compile",
        action="store_true",
        help="compile the transformer's blocks: the first step takes a minute or more, the others less",
    )


def placement(args: argparse.Namespace) -> dict[str, Any]:
    """What was said of the memory, as `load_bundle` takes it."""
    import torch

    given = {name: getattr(args, name) for name in ("device", "offload") if name in args}
    if "dtype" not in args:
        return given
    float8 = FLOAT8.get(args.dtype)
    return given | {"dtype": getattr(torch, DTYPES.get(args.dtype, "bfloat16")), "float8": float8}


def load(args: argparse.Namespace) -> Bundle:
    """The model with its LoRAs, and how it is to be run."""
    from ..pipeline import add_lora_file, attend_by, compile_bundle, load_bundle

    bundle = load_bundle(args.model, **placement(args))
    for one in args.lora:
        path, _, strengths = one.partition("=")
        try:
            add_lora_file(bundle, path, strengths)
        except ValueError as error:
            raise ValueError(f"--lora {one}: {error}") from error
    if "attention" in args:
        attend_by(bundle, args.attention)
    if "compile" in args:
        compile_bundle(bundle)
    return bundle
