"""Nodes that make LATENTs: picture and sound of one clip, on one clock."""

from __future__ import annotations

from collections.abc import Sequence
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
            search_aliases=["empty audio video latent", "size", "length"],
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


class UniTalkSplitLatent(io.ComfyNode):
    """Picture and sound apart."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkSplitLatent",
            display_name="UniTalk Split Latent",
            search_aliases=["separate audio video", "unpack latent"],
            category="UniTalk/latent",
            description="Take the picture and the sound of a joint latent apart, each with its mask.",
            inputs=[io.Latent.Input("latent", tooltip="A joint latent of this or of any other model.")],
            outputs=[
                io.Latent.Output(display_name="video", tooltip="The picture, for nodes that take only that."),
                io.Latent.Output(display_name="audio", tooltip="The sound."),
            ],
        )

    @classmethod
    def execute(cls, latent: dict[str, Any]) -> io.NodeOutput:
        return io.NodeOutput(*(alone(latent, name) for name in ("video", "audio")))


class UniTalkJoinLatent(io.ComfyNode):
    """Picture and sound together."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkJoinLatent",
            display_name="UniTalk Join Latent",
            search_aliases=["combine latents", "concat audio video latent"],
            category="UniTalk/latent",
            description="Make a joint latent of the picture of one latent and the sound of another.",
            inputs=[
                io.Latent.Input(
                    "video", tooltip="A picture, or a joint latent of which the picture is taken."
                ),
                io.Latent.Input("audio", tooltip="A sound, or a joint latent of which the sound is taken."),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="Both streams, with their masks.")],
        )

    @classmethod
    def execute(cls, video: dict[str, Any], audio: dict[str, Any]) -> io.NodeOutput:
        parts = [alone(video, "video"), alone(audio, "audio")]
        streams = [one["samples"] for one in parts]
        host.clips_of(streams)
        masks = [host.masks_of(one)[0] for one in parts]
        return io.NodeOutput(host.with_streams(parts[1] | parts[0], streams, masks))


class UniTalkRepeatLatent(io.ComfyNode):
    """One clip as a batch."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkRepeatLatent",
            display_name="UniTalk Repeat Latent",
            search_aliases=["repeat latent batch", "takes"],
            category="UniTalk/latent",
            description="Repeat the clips of a latent, all streams and masks, for several takes at once.",
            inputs=[
                io.Latent.Input("latent", tooltip="A latent of this or of any other model."),
                io.Int.Input(
                    "amount", default=2, min=1, max=64, tooltip="How many of each clip there will be."
                ),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="All clips once, then all again.")],
        )

    @classmethod
    def execute(cls, latent: dict[str, Any], amount: int) -> io.NodeOutput:
        clips = list(range(host.clips_of(host.streams_of(latent)))) * amount
        return io.NodeOutput(picked(latent, clips) | other_takes(latent, amount))


class UniTalkLatentFromBatch(io.ComfyNode):
    """Some clips of a batch."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkLatentFromBatch",
            display_name="UniTalk Latent From Batch",
            search_aliases=["choose take", "select from batch"],
            category="UniTalk/latent",
            description="Take one clip, or some in a row, out of a batch: all its streams and masks.",
            inputs=[
                io.Latent.Input("latent", tooltip="A latent of this or of any other model."),
                io.Int.Input(
                    "index",
                    default=0,
                    min=-64,
                    max=63,
                    tooltip="The first clip that is taken; -1 is the last one.",
                ),
                io.Int.Input("length", default=1, min=1, max=64, tooltip="How many clips are taken."),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="The clips that were taken.")],
        )

    @classmethod
    def execute(cls, latent: dict[str, Any], index: int, length: int) -> io.NodeOutput:
        count = host.clips_of(host.streams_of(latent))
        first = index + count if index < 0 else index
        if not 0 <= first <= first + length <= count:
            raise ValueError(
                f"the latent holds {count} clips, numbered from 0; it has no {length} from {index} on"
            )
        named = latent.get("batch_index", range(count))[first : first + length]
        return io.NodeOutput(picked(latent, range(first, first + length)) | {"batch_index": list(named)})


class UniTalkResizeLatent(io.ComfyNode):
    """A larger picture, the same sound."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkResizeLatent",
            display_name="UniTalk Resize Latent",
            search_aliases=["upscale latent", "second pass", "hires fix"],
            category="UniTalk/latent",
            description="Scale the picture of a joint latent for a second pass; the sound stays as it is.",
            inputs=[
                io.Latent.Input("latent", tooltip="A joint or picture latent of this or of any other model."),
                io.Combo.Input(
                    "method",
                    options=["nearest-exact", "bilinear", "area", "bicubic", "bislerp"],
                    default="bilinear",
                    tooltip="How latents between latents are found, as in the stock upscaler.",
                ),
                io.Float.Input(
                    "scale_by",
                    default=1.5,
                    min=0.1,
                    max=8.0,
                    step=0.05,
                    tooltip="Sides are multiplied by this; the nearest even number of latents is taken.",
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="For a sampler with a denoise below 1.")
            ],
        )

    @classmethod
    def execute(cls, latent: dict[str, Any], method: str, scale_by: float) -> io.NodeOutput:
        streams, masks = host.streams_of(latent), host.masks_of(latent)
        place = host.place_of(streams, "video")
        height, width = (2 * max(1, round(side * scale_by / 2)) for side in streams[place].shape[-2:])
        streams[place] = host.resized(streams[place], width, height, method)
        if masks[place] is not None:
            masks[place] = host.resized(masks[place], width, height, "nearest-exact")
        return io.NodeOutput(host.with_streams(latent, streams, masks))


def alone(latent: dict[str, Any], name: str) -> dict[str, Any]:
    """LATENT of the picture or the sound alone."""
    streams, masks = host.streams_of(latent), host.masks_of(latent)
    place = host.place_of(streams, name)
    return host.with_streams(latent, [streams[place]], [masks[place]])


def picked(latent: dict[str, Any], clips: Sequence[int]) -> dict[str, Any]:
    """LATENT of the clips with these numbers."""
    rows = list(clips)
    masks = [None if one is None else one[rows] for one in host.masks_of(latent)]
    return host.with_streams(latent, [one[rows] for one in host.streams_of(latent)], masks)


def other_takes(latent: dict[str, Any], amount: int) -> dict[str, Any]:
    """Numbers by which the host draws noise, so that each repetition of numbered clips is another take."""
    named = latent.get("batch_index")
    if named is None:
        return {}
    step = max(named) - min(named) + 1
    return {"batch_index": [number + i * step for i in range(amount) for number in named]}


def clip_format(config: ModelConfig, fps: float) -> ClipFormat:
    """The model's clip format, at another frame rate where one is asked for."""
    if fps == 0:
        return config.format
    return replace(config.format, fps=host.frame_rate(fps))


def present_streams(config: ModelConfig, shapes: AV) -> AV:
    """The shapes of the streams that this model has."""
    return config.streams.map(lambda _, shape: shape, shapes)
