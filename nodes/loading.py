"""Nodes that load: the miniature, joint models, text encoders, audio codecs. Each gives stock sockets."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..unitalk_core.data.encoders import FULL_SIZE
from ..unitalk_core.pipeline import EMBEDDED_VARIABLE, TINY
from ..unitalk_core.weights.assemble import untrained
from ..unitalk_core.weights.identity import beside, in_words
from ..unitalk_core.weights.loading import (
    EMBEDDED,
    Parts,
    load_audio_codec,
    load_embedded,
    load_model,
    read_model,
)
from ..unitalk_core.weights.quantised import dequantise, in_fp8
from . import codecs, host
from .host import io
from .model import in_memory, make_patcher, patcher_of

DTYPES = {"default": None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FP8 = {
    "default": in_fp8,
    "fp8_e4m3fn": partial(in_fp8, every=True, fast=False),
    "fp8_e4m3fn_fast": partial(in_fp8, every=True, fast=True),
}
TABLES = (".modulation",)  # which the host's network holds in float32
GRIFFIN_LIM = "griffin-lim"


class UniTalkLoadEmbedded(io.ComfyNode):
    """The miniature that comes with the pack."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkLoadEmbedded",
            display_name="UniTalk Load Embedded",
            search_aliases=["tiny", "miniature", "demo model"],
            category="UniTalk/loading",
            description="Load the small model that comes with UniTalk: 64 x 64 pixels, no download.",
            inputs=[],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The joint model of picture and sound."),
                io.Clip.Output(display_name="clip", tooltip="Its text encoder, which reads phonemes."),
                io.Vae.Output("vae", display_name="vae", tooltip="Its video VAE."),
                io.Vae.Output("audio_vae", display_name="audio_vae", tooltip="Its audio VAE with a vocoder."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        parts = load_miniature()
        clip = codecs.text_clip(parts.text_encoder, parts.config.markup)
        vaes = codecs.picture_vae(parts.video_vae), codecs.sound_vae(parts.audio_codec)
        return io.NodeOutput(embedded_patcher(parts), clip, *vaes)


class UniTalkLoadModel(io.ComfyNode):
    """A joint model from a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkLoadModel",
            display_name="UniTalk Load Model",
            search_aliases=["load ovi", "joint model", "audio video model", "talking head"],
            category="UniTalk/loading",
            description="Load a joint audio-video model: UniTalking, Ovi, or one trained here.",
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=host.files("model"),
                    tooltip="A file in models/diffusion_models; its streams and sizes are read from it.",
                ),
                io.Combo.Input(
                    "second_name",
                    options=["none", *host.files("model")],
                    default="none",
                    tooltip="The other stream's file, for a model that comes in two (Ovi); else none.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "dtype",
                    options=["default", "fp32", "bf16", "fp16", "fp8_e4m3fn", "fp8_e4m3fn_fast"],
                    default="default",
                    tooltip="Precision of the weights; default is what suits the file and this machine: fp8 "
                    "stays fp8. fp8_e4m3fn takes half the memory of fp16, _fast also multiplies in fp8.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The joint model of picture and sound."),
                io.String.Output("info", display_name="info", tooltip="What it is, needs, and takes."),
            ],
        )

    @classmethod
    def execute(cls, model_name: str, second_name: str, dtype: str) -> io.NodeOutput:
        names = [name for name in (model_name, second_name) if name != "none"]
        model = file_patcher(tuple(host.path_of("model", name) for name in names), dtype)
        told = about(model)
        host.say(told)
        return io.NodeOutput(model, told)


class UniTalkLoadTextEncoder(io.ComfyNode):
    """UMT5 from a file in anybody's names."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkLoadTextEncoder",
            display_name="UniTalk Load Text Encoder",
            search_aliases=["umt5", "t5", "clip loader", "models_t5_umt5-xxl-enc-bf16"],
            category="UniTalk/loading",
            description="Load UMT5-XXL as Wan2.2's authors, Diffusers or ComfyUI publish it.",
            inputs=[
                io.Combo.Input(
                    "text_encoder_name",
                    options=host.files("text"),
                    tooltip="A file in models/text_encoders; its tokenizer is in it, or beside it.",
                ),
                io.Combo.Input(
                    "device",
                    options=["default", "cpu"],
                    default="default",
                    tooltip="cpu leaves the memory of the graphics card to the model, and reads slower.",
                    optional=True,
                    advanced=True,
                ),
            ],
            outputs=[
                io.Clip.Output(display_name="clip", tooltip="For UniTalk Text Encode and CLIP Text Encode.")
            ],
        )

    @classmethod
    def execute(cls, text_encoder_name: str, device: str = "default") -> io.NodeOutput:
        return io.NodeOutput(codecs.umt5_clip(host.path_of("text", text_encoder_name), device))


class UniTalkLoadAudioVAE(io.ComfyNode):
    """An audio VAE and the vocoder behind it, as one VAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkLoadAudioVAE",
            display_name="UniTalk Load Audio VAE",
            search_aliases=["mmaudio", "bigvgan", "vocoder", "griffin-lim"],
            category="UniTalk/loading",
            description="Load MMAudio's audio VAE (16 or 44.1 kHz) with a vocoder, or with Griffin-Lim.",
            inputs=[
                io.Combo.Input(
                    "vae_name",
                    options=host.files("vae"),
                    tooltip="A file in models/vae: MMAudio's audio VAE, 16 kHz or 44.1 kHz.",
                ),
                io.Combo.Input(
                    "vocoder_name",
                    options=["griffin-lim", *host.files("vae")],
                    default="griffin-lim",
                    tooltip="BigVGAN or Vocos of the same rate in models/vae; griffin-lim: no file, rougher.",
                ),
            ],
            outputs=[
                io.Vae.Output("audio_vae", display_name="audio_vae", tooltip="For UniTalk BigVGAN Vocode.")
            ],
        )

    @classmethod
    def execute(cls, vae_name: str, vocoder_name: str) -> io.NodeOutput:
        vocoder = None if vocoder_name == GRIFFIN_LIM else host.path_of("vae", vocoder_name)
        return io.NodeOutput(codecs.sound_vae(load_audio_codec(host.path_of("vae", vae_name), vocoder)))


def about(model: Any) -> str:
    """What a MODEL is, what of it is not trained, what it needs beside it, and whether it fits here."""
    config = host.config_of(model)
    silent = [
        f"the {name} is not trained: its head is zero" for name in untrained(model.model.diffusion_model)
    ]
    needs = "needs " + ", ".join(beside(config))
    return "; ".join([in_words(config), *silent, needs, in_memory(model)])


def file_patcher(paths: tuple[Path, ...], dtype: str = "default", disable_dynamic: bool = False) -> Any:
    """MODEL from files. The host calls this again where it needs the model a second time.

    dtype: a choice of UniTalk Load Model. Names and shapes are checked before any weight is read.
    """
    _, config = load_model(paths, device="meta")
    asked = DTYPES.get(dtype)
    tensors, _ = read_model(paths, asked, unpack=FP8.get(dtype, dequantise), but=TABLES)
    patcher = patcher_of(config, tensors, asked, disable_dynamic)
    patcher.cached_patcher_init = (file_patcher, (paths, dtype))
    return patcher


def embedded_patcher(
    parts: Parts | None = None, folder: Path | None = None, disable_dynamic: bool = False
) -> Any:
    """MODEL of a miniature, from its parts or from its files. Previews have its own VAEs' colours and sound.

    folder: where its files are; None is the one that comes with the pack.
    """
    parts = parts or (load_miniature() if folder is None else load_embedded(folder))
    patcher = make_patcher(parts.model, None, disable_dynamic)
    shown = patcher.model.latent_format
    shown.latent_rgb_factors, shown.latent_rgb_factors_bias = codecs.preview_factors(parts.video_vae)
    shown.sound_map, shown.codec = codecs.preview_sound(parts.audio_codec), parts.audio_codec
    shown.taesd_decoder_name = None  # those of Wan2.2's latents do not fit these
    patcher.cached_patcher_init = (embedded_patcher, (None, folder))
    return patcher


def base_path(model: str) -> str:
    """What the core's command line calls a choice of a node: a kind of model as it is, a file by its path."""
    return model if model in (TINY, *FULL_SIZE) else str(host.path_of("model", model))


def load_miniature() -> Parts:
    """The files that come with the pack, or those in the folder that UNITALK_EMBEDDED names."""
    return load_embedded(os.environ.get(EMBEDDED_VARIABLE) or EMBEDDED)
