"""Nodes that guide: how strictly a clip follows its words, voice, picture and other stream.

Each is a MODEL with one more pass a step; in a chain they add up, and the same pass is run once.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from ..unitalk_core.av import AV
from ..unitalk_core.diffusion.guidance import Guidance, Term, Without
from . import host, stepping
from .host import io

STRENGTH = {"default": 2.0, "min": 0.0, "max": 30.0, "step": 0.1}
SCALE = {"default": 2.0, "min": 0.0, "max": 30.0, "step": 0.05}
START = {
    "default": 0.0,
    "min": 0.0,
    "max": 1.0,
    "step": 0.01,
    "tooltip": "Where it begins: 0 is the first step.",
    "advanced": True,
}
END = {
    "default": 1.0,
    "min": 0.0,
    "max": 1.0,
    "step": 0.01,
    "tooltip": "Where it ends: 1 is the last step. Steps outside do without its pass.",
    "advanced": True,
}


class UniTalkGuider(io.ComfyNode):
    """Guidance by the text with a strength for each stream."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkGuider",
            display_name="UniTalk Guider",
            search_aliases=["cfg guider", "dual cfg", "audio cfg"],
            category="UniTalk/guidance",
            description="Prompt strength for picture and sound, in a range of steps, for any model.",
            inputs=[
                io.Model.Input("model", tooltip="With the guidance of the nodes before it."),
                io.Conditioning.Input("positive", tooltip="What is wanted."),
                io.Conditioning.Input(
                    "negative", tooltip="What is not; the zeroed positive, or an encoded text."
                ),
                io.Float.Input(
                    "video_cfg",
                    **STRENGTH,
                    tooltip="Prompt strength for the picture: 2 for the miniature, 4 to 5 for full models.",
                ),
                io.Float.Input(
                    "audio_cfg", **STRENGTH, tooltip="Prompt strength for the sound; 1 is the prompt alone."
                ),
                io.Float.Input("start_percent", **START),
                io.Float.Input("end_percent", **END),
            ],
            outputs=[io.Guider.Output(display_name="guider", tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        video_cfg: float,
        audio_cfg: float,
        start_percent: float,
        end_percent: float,
    ) -> io.NodeOutput:
        text = Term(Without(text=True), AV(video_cfg, audio_cfg), start_percent, end_percent)
        host.say(summary(Guidance((text, *stepping.guidance_of(model).terms))))
        return io.NodeOutput(stepping.AVGuider(model, positive, negative, text))


class UniTalkVoiceGuidance(io.ComfyNode):
    """More of the voice that was given."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkVoiceGuidance",
            display_name="UniTalk Voice Guidance",
            search_aliases=["voice strength", "speaker similarity", "audio reference cfg"],
            category="UniTalk/guidance",
            description="Follow the given voice more strictly: away from a pass that does not hear it.",
            inputs=[
                io.Model.Input("model", tooltip="A UniTalk model; guidance of nodes before stays."),
                io.Float.Input("video_scale", **SCALE, tooltip="Of the voice for the picture; 1 is off."),
                io.Float.Input(
                    "audio_scale",
                    **SCALE,
                    tooltip="Of the voice for the sound; 1 is off, 2 to 3 is more like it.",
                ),
                io.Float.Input("start_percent", **START),
                io.Float.Input("end_percent", **END),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="For any guider and sampler.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        video_scale: float,
        audio_scale: float,
        start_percent: float,
        end_percent: float,
    ) -> io.NodeOutput:
        host.config_of(model)
        scale = AV(video_scale, audio_scale)
        return further(model, Term(Without(voice=True), scale, start_percent, end_percent))


class UniTalkImageGuidance(io.ComfyNode):
    """More of the picture that is kept."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkImageGuidance",
            display_name="UniTalk Image Guidance",
            search_aliases=["image cfg", "first frame strength"],
            category="UniTalk/guidance",
            description="Follow a kept frame or picture more strictly: away from a pass that knows none.",
            inputs=[
                io.Model.Input("model", tooltip="A UniTalk model; guidance of nodes before stays."),
                io.Float.Input(
                    "video_scale", **SCALE, tooltip="Of the kept picture for the rest of it; 1 is off."
                ),
                io.Float.Input(
                    "audio_scale", **SCALE, tooltip="Of the kept picture for the sound; 1 is off."
                ),
                io.Float.Input("start_percent", **START),
                io.Float.Input("end_percent", **END),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="For any guider and sampler.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        video_scale: float,
        audio_scale: float,
        start_percent: float,
        end_percent: float,
    ) -> io.NodeOutput:
        host.config_of(model)
        scale = AV(video_scale, audio_scale)
        return further(model, Term(Without(image=True), scale, start_percent, end_percent))


class UniTalkCouplingGuidance(io.ComfyNode):
    """Picture and sound listen to each other more."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkCouplingGuidance",
            display_name="UniTalk Coupling Guidance",
            search_aliases=["lip sync strength", "modality guidance", "audio video sync"],
            category="UniTalk/guidance",
            description="Tie lips and sound together: away from a pass where neither stream sees the other.",
            inputs=[
                io.Model.Input("model", tooltip="A UniTalk model; guidance of nodes before stays."),
                io.Float.Input(
                    "video_scale",
                    **SCALE,
                    tooltip="Of the sound for the picture; 1 is off, 2 to 3 ties lips to it.",
                ),
                io.Float.Input("audio_scale", **SCALE, tooltip="Of the picture for the sound; 1 is off."),
                io.Float.Input("start_percent", **START),
                io.Float.Input("end_percent", **END),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="For any guider and sampler.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        video_scale: float,
        audio_scale: float,
        start_percent: float,
        end_percent: float,
    ) -> io.NodeOutput:
        host.config_of(model)
        scale = AV(video_scale, audio_scale)
        return further(model, Term(Without(coupling=True), scale, start_percent, end_percent))


class UniTalkSkipLayerGuidance(io.ComfyNode):
    """Away from a model with blocks missing."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkSkipLayerGuidance",
            display_name="UniTalk Skip Layer Guidance",
            search_aliases=["slg", "skip layers"],
            category="UniTalk/guidance",
            description="Away from a pass in which some blocks of the model are left out.",
            inputs=[
                io.Model.Input("model", tooltip="A UniTalk model; guidance of nodes before stays."),
                io.String.Input(
                    "blocks",
                    default="3",
                    tooltip="Numbers of blocks, from 0: 3 of 6 for tiny, 9 to 11 of 30.",
                ),
                io.Float.Input("video_scale", **SCALE, tooltip="How far for the picture; 1 is off."),
                io.Float.Input("audio_scale", **SCALE, tooltip="How far for the sound; 1 is off."),
                io.Float.Input("start_percent", **START),
                io.Float.Input("end_percent", **END),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="For any guider and sampler.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        blocks: str,
        video_scale: float,
        audio_scale: float,
        start_percent: float,
        end_percent: float,
    ) -> io.NodeOutput:
        scale = AV(video_scale, audio_scale)
        return further(
            model, Term(Without(blocks=blocks_of(model, blocks)), scale, start_percent, end_percent)
        )


class UniTalkProjectedGuidance(io.ComfyNode):
    """Guidance in shape: less saturated, limited, with the spread of the unguided estimate."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkProjectedGuidance",
            display_name="UniTalk Projected Guidance",
            search_aliases=["apg", "cfg rescale", "oversaturation"],
            category="UniTalk/guidance",
            description="Strong guidance without harsh colours and loud sound: project, limit, rescale.",
            inputs=[
                io.Model.Input(
                    "model", tooltip="Any model; all guidance it gets is shaped, stream by stream."
                ),
                io.Float.Input(
                    "eta",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Share that stays of what goes along the estimate and saturates; 1 is all (APG).",
                ),
                io.Float.Input(
                    "limit",
                    default=0.0,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    tooltip="Largest guidance, as a share of the estimate; 0 is no limit.",
                ),
                io.Float.Input(
                    "rescale",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How far the spread goes back to that without guidance; 0 is not at all.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="For any guider and sampler.")],
        )

    @classmethod
    def execute(cls, model: Any, eta: float, limit: float, rescale: float) -> io.NodeOutput:
        shape = {"eta": eta, "limit": limit, "rescale": rescale}
        return io.NodeOutput(stepping.with_guidance(model, lambda before: replace(before, **shape)))


def further(model: Any, term: Term) -> io.NodeOutput:
    """The MODEL with one more term; the node shows what a step takes."""
    guided = stepping.with_guidance(model, lambda before: replace(before, terms=(*before.terms, term)))
    host.say(summary(stepping.guidance_of(guided)) + ", and those of the guider")
    return io.NodeOutput(guided)


def summary(guidance: Guidance) -> str:
    passes = {term.without for term in guidance.terms if term.counts}
    return f"up to {1 + len(passes)} passes a step: {guidance}"


def blocks_of(model: Any, text: str) -> tuple[int, ...]:
    """`3, 4` -> (3, 4); ValueError for what this model does not have."""
    depth = host.config_of(model).streams.present()[0].depth
    if not re.fullmatch(r"\s*\d+(\s*,\s*\d+)*\s*", text):
        raise ValueError(f"blocks must be whole numbers with commas between, such as 3, 4; got {text!r}")
    blocks = tuple(int(one) for one in text.split(","))
    if max(blocks) >= depth:
        raise ValueError(f"the blocks of this model are 0 to {depth - 1}, got {max(blocks)}")
    return blocks
