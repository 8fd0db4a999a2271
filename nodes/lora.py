"""A node that adds a LoRA, each part of the model at its own strength, and says what of the file was used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..unitalk_core.weights.files import read_tensors
from ..unitalk_core.weights.lora import PARTS
from . import host
from .host import io
from .model import with_lora

STRENGTH = {"default": 1.0, "min": -10.0, "max": 10.0, "step": 0.01}
SHOWN = 3  # names in a sentence


class UniTalkLoraLoader(io.ComfyNode):
    """A LoRA whose voice can be left out, or its face."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkLoraLoader",
            display_name="UniTalk LoRA Loader",
            search_aliases=["lora report", "lora strength", "audio lora"],
            category="UniTalk/loading",
            description="Add a LoRA with a strength for each part of the model, and see which keys fit.",
            inputs=[
                io.Model.Input("model", tooltip="A UniTalk model; several LoRAs can follow each other."),
                io.Combo.Input(
                    "lora_name",
                    options=host.files("lora"),
                    tooltip="A file in models/loras: trained here, or of Wan2.2, which changes the picture.",
                ),
                io.Float.Input("picture", **STRENGTH, tooltip="Strength in the picture stream: the face."),
                io.Float.Input("sound", **STRENGTH, tooltip="Strength in the sound stream: the voice."),
                io.Float.Input(
                    "picture_to_sound",
                    **STRENGTH,
                    tooltip="Strength where the sound looks at the picture, in models with layers for it "
                    "(Ovi).",
                ),
                io.Float.Input(
                    "sound_to_picture",
                    **STRENGTH,
                    tooltip="Strength where the picture listens to the sound, in models with layers for it "
                    "(Ovi).",
                ),
                io.Float.Input(
                    "reference", **STRENGTH, tooltip="Strength in the layers that hear the reference voice."
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model with the LoRA."),
                io.String.Output(
                    "report", display_name="report", tooltip="What fits by part, and each key that does not."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        lora_name: str,
        picture: float,
        sound: float,
        picture_to_sound: float,
        sound_to_picture: float,
        reference: float,
    ) -> io.NodeOutput:
        host.config_of(model)
        given = (picture, sound, picture_to_sound, sound_to_picture, reference)
        strengths = dict(zip(PARTS, given, strict=True))
        tensors = read_tensors(host.path_of("lora", lora_name))
        patched, matched, lost = with_lora(model, tensors, strengths)
        report = in_words(lora_name, matched, strengths, lost, len(tensors))
        host.say(report.splitlines()[0])
        return io.NodeOutput(patched, report)


def in_words(
    name: str, matched: Mapping[str, int], strengths: Mapping[str, float], lost: list[str], keys: int
) -> str:
    """A line on what fits, then each key that does not; ValueError if nothing fits."""
    if not matched:
        raise ValueError(
            f"{name} fits nothing in this model: none of its {keys} keys, such as {', '.join(lost[:SHOWN])}; "
            "it was made for another model"
        )
    parts = [f"{part} {matched[part]} at {strengths[part]:g}" for part in PARTS if matched.get(part)]
    found = f"{keys - len(lost)} of {keys} keys fit; weights: {', '.join(parts)}"
    return "\n".join([found, *(f"does not fit: {key}" for key in lost)])
