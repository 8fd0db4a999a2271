"""The node that begins a new model: a picture stream that is trained, and a sound stream that may not be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..unitalk_core.weights.assemble import NEW, Assembled, assemble
from . import host
from .host import io
from .loading import DTYPES
from .model import make_patcher


class UniTalkAssembleModel(io.ComfyNode):
    """A new UniTalk model, to be trained."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkAssembleModel",
            display_name="UniTalk Assemble Model",
            search_aliases=["new model", "twin", "wan to unitalk", "from scratch"],
            category="UniTalk/loading",
            description="Begin a new joint model: Wan2.2's picture stream and a sound stream, to be trained.",
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=host.files("model"),
                    tooltip="The picture stream, in models/diffusion_models: Wan2.2-TI2V-5B in any form.",
                ),
                io.Combo.Input(
                    "sound_stream",
                    options=["twin", "random", *host.files("model")],
                    default="twin",
                    tooltip="twin copies the picture's blocks, random draws them: noise until trained. Or a "
                    "file with a trained one, such as Ovi's (16 kHz).",
                ),
                io.Int.Input(
                    "weights_seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    tooltip="Of the weights that are drawn: random's all, a twin's input layer.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=["default", "fp32", "bf16", "fp16"],
                    default="default",
                    tooltip="Precision of the weights; default is that of the picture's file.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="For ModelSave; train the saved file."),
                io.String.Output("info", display_name="info", tooltip="What is trained and what is noise."),
            ],
        )

    @classmethod
    def execute(cls, model_name: str, sound_stream: str, weights_seed: int, dtype: str) -> io.NodeOutput:
        sound = sound_stream if sound_stream in NEW else host.path_of("model", sound_stream)
        given = host.path_of("model", model_name), sound, weights_seed, DTYPES[dtype]
        made = assemble(*given)
        host.say(made.said)
        return io.NodeOutput(assembled_patcher(*given, made=made), made.said)


def assembled_patcher(
    picture: Path,
    sound: str | Path,
    seed: int,
    dtype: torch.dtype | None,
    disable_dynamic: bool = False,
    made: Assembled | None = None,
) -> Any:
    """MODEL of what `assemble` makes. The host calls this again where it needs the model a second time."""
    made = made or assemble(picture, sound, seed, dtype)
    patcher = make_patcher(made.model, made.dtype, disable_dynamic)
    patcher.cached_patcher_init = (assembled_patcher, (picture, sound, seed, dtype))
    return patcher
