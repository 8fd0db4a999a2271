"""Nodes that say when a voice is heard."""

from __future__ import annotations

from typing import Any

from ..unitalk_core.models.voices import check_spans
from .host import io

SECOND = {"default": 0.0, "min": 0.0, "max": 3600.0, "step": 0.01}


class UniTalkVoiceRange(io.ComfyNode):
    """A voice is heard from one second to another."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkVoiceRange",
            display_name="UniTalk Voice Range",
            search_aliases=["two speakers", "dialogue", "multiple voices"],
            category="UniTalk/conditioning",
            description="Let the voice that was encoded before be heard in some seconds of the clip alone.",
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="From UniTalk Reference Audio Encode."),
                io.Float.Input(
                    "start", **SECOND, tooltip="The second of the clip at which it begins to speak."
                ),
                io.Float.Input(
                    "end", **SECOND, tooltip="The second at which it ends; 0 is the end of the clip."
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="conditioning",
                    tooltip="For a sampler, or for the next Reference Audio Encode.",
                )
            ],
        )

    @classmethod
    def execute(cls, conditioning: Any, start: float, end: float) -> io.NodeOutput:
        span = (start, None if end == 0 else end)
        return io.NodeOutput([[text, given | bound(given, span)] for text, given in conditioning])


def bound(given: dict[str, Any], span: tuple[float, float | None]) -> dict[str, Any]:
    """What replaces the voice of one conditioning: it has its own seconds, and there is room for another."""
    if given.get("reference") is None:
        raise ValueError(
            "there is no voice to give seconds to; put UniTalk Reference Audio Encode before this node"
        )
    voices = (*given.get("voices", ()), (given["reference"], span))
    check_spans([one for _, one in voices], float("inf"))
    return {"reference": None, "voices": voices}
