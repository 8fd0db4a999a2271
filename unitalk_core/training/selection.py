"""Which tensors a run changes: parts trained whole, and low-rank additions to others. The rest is frozen."""

from __future__ import annotations

from fnmatch import fnmatchcase

from torch import nn

from ..weights.lora import add_lora, is_lora
from .config import TrainConfig
from .origin import Base
from .parts import TEXT_ENCODER, chosen, linear_layers


def learns_text(config: TrainConfig, base: Base) -> bool:
    """Whether the text encoder is trained too. ValueError for a LoRA, whose file has no place for it."""
    asked = any(fnmatchcase(TEXT_ENCODER, pattern) for pattern in config.train)
    if asked and config.method == "lora":
        raise ValueError("train names the text encoder, which no LoRA file can hold; name other parts")
    return asked and base.text_encoder is not None


def select(trainee: nn.Module, config: TrainConfig) -> list[str]:
    """Add the LoRAs, freeze what is not trained, and name what is, in order.

    ValueError for a pattern that fits no part, or a part that is trained both ways.
    """
    names = [name for name, _ in trainee.named_parameters()]
    whole = set(chosen(names, config.train, "train"))
    if config.method == "lora":
        layers = linear_layers(trainee, config.lora.targets, "lora.targets")
        if twice := [name for name in layers if f"{name}.weight" in whole]:
            raise ValueError(
                f"{twice[0]} and {len(twice) - 1} more are in train and in lora.targets; choose one"
            )
        add_lora(trainee, layers, config.lora.rank, config.lora.alpha, config.seed)
    for name, parameter in trainee.named_parameters():
        parameter.requires_grad_(name in whole or is_lora(name))
    return [name for name, parameter in trainee.named_parameters() if parameter.requires_grad]
