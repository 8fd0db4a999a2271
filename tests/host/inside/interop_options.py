"""Rows of the interoperability table: how the host was started, and models that do not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from comfy.cli_args import LatentPreviewMethod, args
from interop import EXACT, NOTE, Answer, in_words, row, sampled
from interop_parts import with_lora
from on_model import velocity
from rig import core, pair, worst

OPTIONS, CPU = "Start options", torch.device("cpu")


@contextmanager
def started_with(**options: Any) -> Iterator[None]:
    """The host's options as these flags would set them; the ones used here are looked up when they count."""
    before = {name: getattr(args, name) for name in options}
    vars(args).update(options)
    try:
        yield
    finally:
        vars(args).update(before)


@row(
    OPTIONS,
    "a model loaded in part, as --lowvram does",
    NOTE,
    "with --cpu ComfyUI leaves out --lowvram itself",
)
def partly_loaded() -> Answer:
    """layers cast when they run, with a LoRA added to them then, give the velocity of the whole model"""
    whole = velocity(model=with_lora(0.7))
    part = with_lora(0.7)
    comfy.model_management.unload_all_models()
    part.patch_model(CPU, lowvram_model_memory=400_000)
    try:
        cast = sum(getattr(one, "prev_comfy_cast_weights", None) is not None for one in part.model.modules())
        made = velocity_as_loaded(part)
    finally:
        part.detach()
    found = max(worst(a, b) for a, b in zip(made, whole, strict=True))
    return cast > 0 and found < EXACT, f"{cast} layers cast; {in_words([found])}"


def velocity_as_loaded(patcher: Any) -> list[torch.Tensor]:
    """One call of the network, not loaded anew."""
    load = comfy.model_management.load_model_gpu
    comfy.model_management.load_model_gpu = lambda _: None
    try:
        return velocity(model=patcher)
    finally:
        comfy.model_management.load_model_gpu = load


def beside_float32(dtype: torch.dtype, **options: bool) -> tuple[list[float], float]:
    """How far a clip is from the plain one, and the share of weights that have this type."""
    with started_with(**options):
        model = core("nodes.loading").embedded_patcher()
        made = sampled(model)
    found = [worst(a.float(), b) for a, b in zip(pair(made), pair(sampled()), strict=True)]
    weights = list(model.model.diffusion_model.parameters())
    share = sum(one.numel() for one in weights if one.dtype == dtype) / sum(one.numel() for one in weights)
    return found, share


@row(OPTIONS, "--fp8_e4m3fn-unet")
def fp8() -> Answer:
    """the weights are kept in 8 bits and cast for each layer; the clip is near that of float32"""
    found, share = beside_float32(torch.float8_e4m3fn, fp8_e4m3fn_unet=True)
    return share > 0.9 and 0 < max(found) < 0.5, f"{share:.0%} of the weights; {in_words(found)}"


@row(OPTIONS, "--bf16-unet, --fp16-unet")
def half() -> Answer:
    """the clip is near that of float32"""
    runs = [beside_float32(torch.bfloat16, bf16_unet=True), beside_float32(torch.float16, fp16_unet=True)]
    near = all(share > 0.9 and 0 < max(found) < 0.1 for found, share in runs)
    return near, "; ".join(in_words(found) for found, _ in runs)


def previews(method: LatentPreviewMethod) -> Answer:
    shown: list[Any] = []
    plain = sampled()
    comfy.utils.set_progress_bar_global_hook(lambda *event, **_: shown.append(event[2]))
    try:
        with started_with(preview_method=method):
            made = sampled()
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    found = [worst(a, b) for a, b in zip(pair(made), pair(plain), strict=True)]
    sizes = [one[1].size for one in shown if one is not None]
    return max(found) == 0 and len(sizes) == 3, f"{len(sizes)} pictures of {sizes[-1][0]} x {sizes[-1][1]}"


@row(OPTIONS, "--preview-method latent2rgb", note="four frames and the sound below them")
def preview_rgb() -> Answer:
    """each of three steps shows a picture; the clip is the same as without"""
    return previews(LatentPreviewMethod.Latent2RGB)


@row(OPTIONS, "--preview-method taesd", NOTE, "the miniature has no TAESD: it shows what latent2rgb shows")
def preview_taesd() -> Answer:
    """each of three steps shows a picture; the clip is the same as without"""
    return previews(LatentPreviewMethod.TAESD)
