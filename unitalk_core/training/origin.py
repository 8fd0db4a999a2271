"""What a run starts from: the miniature, a folder like it, or the file of a model, maybe of one stream."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ..config import ModelConfig
from ..models.mmdit import JointDiT
from ..pipeline import TINY, Bundle, load_bundle
from ..weights.assemble import assemble
from ..weights.loading import built, read_model
from .config import TrainConfig


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
    if config.audio != "stored":
        model = assemble(config.model, config.audio, config.seed, torch.float32).model
        return Base(model, model.config, config.model)
    weights, found = read_model(config.model, torch.float32 if config.method == "full" else None)
    return Base(built(lambda: JointDiT(found), weights, config.model), found, config.model)
