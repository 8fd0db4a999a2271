"""What a run starts from: the miniature, a folder like it, or the file of a model, maybe of one stream."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..config import UNITALK, ModelConfig
from ..models.mmdit import JointDiT, initialise
from ..pipeline import TINY, Bundle, load_bundle
from ..weights.files import load_weights
from ..weights.loading import built, read_model
from .config import TrainConfig

ENDS = ("patch_embedding", "head", "reference_embedding")  # a twin has its own, and its own `_ref` layers
SIZES = ("width", "heads", "depth", "ffn_width", "text_dim", "text_len")


@dataclass(frozen=True)
class Base:
    """bundle: the codecs and the text encoder too, where the base is a folder; None for a model file."""

    model: JointDiT
    config: ModelConfig
    source: str
    bundle: Bundle | None = None

    @property
    def text_encoder(self) -> nn.Module | None:
        return None if self.bundle is None else self.bundle.text_encoder


def load_base(config: TrainConfig) -> Base:
    """The model of `config.model`; what is trained whole is in float32. FileNotFoundError or ValueError."""
    folder = config.model == TINY or Path(config.model).is_dir()
    if folder and config.audio == "stored":
        bundle = load_bundle(config.model)
        return Base(bundle.model, bundle.config, config.model, bundle)
    if folder:
        raise ValueError(f"{config.model} has a sound stream; set audio to stored, got {config.audio}")
    if not Path(config.model).is_file():
        raise FileNotFoundError(
            f"there is no model {config.model}; use tiny, a folder like it, or the file of a model"
        )
    whole = config.method == "full" or config.audio != "stored"
    weights, found = read_model(config.model, torch.float32 if whole else None)
    if config.audio == "stored":
        return Base(built(lambda: JointDiT(found), weights, config.model), found, config.model)
    if found.streams.audio is not None:
        raise ValueError(f"{config.model} has a sound stream; set audio to stored, got {config.audio}")
    model = with_new_audio(found, weights, config)
    return Base(model, model.config, config.model)


def with_new_audio(found: ModelConfig, weights: dict[str, Tensor], config: TrainConfig) -> JointDiT:
    """UniTalking around this picture stream; its sound stream is drawn, or copied from the picture's."""
    sizes = {name: getattr(found.streams.video, name) for name in SIZES}
    streams = UNITALK.streams.map(lambda stream: replace(stream, **sizes))
    model = JointDiT(replace(UNITALK, streams=streams))
    initialise(model, config.seed)
    load_weights(model, model.state_dict() | weights, config.model)
    if config.audio == "twin":
        copy_stream(model.video_model, model.audio_model)
    return model


@torch.no_grad()
def copy_stream(source: nn.Module, target: nn.Module, but: tuple[str, ...] = ()) -> None:
    """Make `target` a twin of `source`, but for its ends: input layer, head, and what hears the reference.

    but: parts of names of further weights that the target keeps as they are.
    """
    values = dict(source.named_parameters())
    own = ("_ref.", *but)
    for name, parameter in target.named_parameters():
        if not name.startswith(ENDS) and not any(part in name for part in own):
            parameter.copy_(values[name])
