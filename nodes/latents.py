"""Nodes that make LATENTs: picture and sound of one clip, on one clock."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from ..unitalk_core.av import AV, ClipFormat
from ..unitalk_core.config import ModelConfig
from . import host
from .host import io


class UniTalkEmptyLatent(io.ComfyNode):
    """An empty clip of legal size and length."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkEmptyLatent",
            display_name="UniTalk Empty Latent",
            category="UniTalk/latent",
            description="An empty clip: the latents of picture and sound for a size and a length in seconds.",
            inputs=[
                io.Model.Input("model", tooltip="The model that will fill it: it knows its rates and sizes."),
                io.Int.Input(
                    "width", default=64, min=32, max=4096, step=32, tooltip="Pixels, a multiple of 32."
                ),
                io.Int.Input(
                    "height", default=64, min=32, max=4096, step=32, tooltip="Pixels, a multiple of 32."
                ),
                io.Float.Input(
                    "seconds",
                    default=2.4,
                    min=0.04,
                    max=60.0,
                    step=0.01,
                    tooltip="Length; the nearest that the VAE can make is taken and given out as frames.",
                ),
                io.Float.Input(
                    "fps",
                    default=0.0,
                    min=0.0,
                    max=120.0,
                    step=0.01,
                    tooltip="Frames per second. 0 = as the model was trained, which keeps lips in time.",
                    advanced=True,
                ),
                io.Int.Input("batch_size", default=1, min=1, max=64, tooltip="Clips at once.", advanced=True),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="Both streams, for any sampler."),
                io.Int.Output("frames", display_name="frames", tooltip="Frames of picture."),
                io.Float.Output("fps", display_name="fps", tooltip="For UniTalk Mux AV."),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, width: int, height: int, seconds: float, fps: float, batch_size: int
    ) -> io.NodeOutput:
        clip = clip_format(host.config_of(model), fps)
        frames = clip.frames_for(seconds)
        shapes = clip.latent_shape(frames, width, height, batch_size)
        streams = host.travelling(present_streams(host.config_of(model), shapes).map(torch.zeros))
        return io.NodeOutput({"samples": host.nested(streams)}, frames, float(clip.fps))


def clip_format(config: ModelConfig, fps: float) -> ClipFormat:
    """The model's clip format, at another frame rate where one is asked for."""
    if fps == 0:
        return config.format
    return replace(config.format, fps=host.frame_rate(fps))


def present_streams(config: ModelConfig, shapes: AV) -> AV:
    """The shapes of the streams that this model has."""
    return config.streams.map(lambda _, shape: shape, shapes)
