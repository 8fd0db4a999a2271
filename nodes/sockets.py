"""Codecs and text encoders of the core behind the host's VAE and CLIP sockets."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.utils
import folder_paths
import torch
from torch import Tensor, nn

from .host import progress


@contextmanager
def _unwarned() -> Iterator[None]:
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


class CoreVAE(comfy.sd.VAE):
    """A VAE of the core behind the host's own encoding, decoding and tiling. Always loaded whole, in float32.

    The stage checks what it is given: `check_latent` (b, c, ...) and `check_given`, channels last.

    The host recognises its VAEs by their weights; ours come ready made, so `facts` fills in what it would
    find out: latent_dim, latent_channels, upscale_ratio, memory_used_decode ...
    """

    def __init__(self, stage: nn.Module, facts: dict[str, Any]) -> None:
        with _unwarned():
            super().__init__(sd={})  # recognises nothing, says so, and leaves the defaults
        self.first_stage_model = stage.eval().requires_grad_(False)
        self.device = comfy.model_management.vae_device()
        self.output_device = comfy.model_management.intermediate_device()
        self.vae_dtype, self.working_dtypes, self.disable_offload = torch.float32, [torch.float32], True
        comfy.model_management.archive_model_dtypes(stage)
        offload = comfy.model_management.vae_offload_device()
        self.patcher = comfy.model_patcher.ModelPatcher(
            stage, load_device=self.device, offload_device=offload
        )
        self.model_size()
        for name, value in facts.items():
            setattr(self, name, value)

    def decode(self, samples_in: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.first_stage_model.check_latent(samples_in)
        return super().decode(samples_in, *args, **kwargs)

    def decode_tiled(self, samples: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.first_stage_model.check_latent(samples)
        return super().decode_tiled(samples, *args, **kwargs)

    def encode(self, pixel_samples: Tensor) -> Tensor:
        self.first_stage_model.check_given(pixel_samples)
        return super().encode(pixel_samples)

    def encode_tiled(self, pixel_samples: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.first_stage_model.check_given(pixel_samples)
        return super().encode_tiled(pixel_samples, *args, **kwargs)


def decode_in_tiles(vae: Any, latent: Tensor, tile: int, overlap: int) -> Tensor:
    """`vae.decode` tile after tile, each whole in time, faded into each other. tile, overlap: in latents."""
    frames, rows, columns = latent.shape[2:]
    sides = (columns, rows, min(tile, columns), min(tile, rows))
    report = progress(len(latent) * comfy.utils.get_tiled_scale_steps(*sides, overlap))
    done = count()

    def decode(part: Tensor) -> Tensor:
        report(next(done))
        return vae.decode(part).movedim(-1, 1)

    pixels = comfy.utils.tiled_scale_multidim(
        latent,
        decode,
        tile=(frames, tile, tile),
        overlap=(0, overlap, overlap),
        upscale_amount=vae.upscale_ratio,
        index_formulas=vae.upscale_index_formula,
        output_device=vae.output_device,
    )
    return pixels.movedim(1, -1)


def text_clip(stage: nn.Module, tokenizer: Any) -> comfy.sd.CLIP:
    """A text encoder of the core as CLIP. `stage`: encode_token_weights and the two option methods."""
    clip = comfy.sd.CLIP(no_init=True)
    clip.cond_stage_model = stage.eval().requires_grad_(False)
    clip.tokenizer, clip.tokenizer_options = tokenizer, {}
    clip.layer_idx, clip.use_clip_schedule, clip.apply_hooks_to_conds = None, False, None
    clip.patcher = comfy.model_patcher.ModelPatcher(
        stage,
        load_device=comfy.model_management.text_encoder_device(),
        offload_device=comfy.model_management.text_encoder_offload_device(),
    )
    clip.patcher.is_clip = True
    return clip


def umt5_clip(
    tensors: dict[str, Tensor], sizes: dict[str, int], on_cpu: bool, disable_dynamic: bool
) -> comfy.sd.CLIP:
    """The host's own umT5 as CLIP, from weights under its names with `spiece_model`; fp8 stays fp8."""
    options: dict[str, Any] = {"umt5xxl_model_config": sizes}
    if on_cpu:
        options |= dict.fromkeys(("load_device", "offload_device"), torch.device("cpu"))
    return comfy.sd.load_text_encoder_state_dicts(
        [tensors],
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        clip_type=comfy.sd.CLIPType.WAN,
        model_options=options,
        disable_dynamic=disable_dynamic,
    )
