"""Text as the streams read it. What they make of it is the same in all steps of a run and need be made once.

b batch
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..av import AV

T = TypeVar("T")

MOST_TEXTS = 8  # a step has up to six; a text that changes with every step must not pile up


@dataclass(frozen=True, eq=False)
class Kept:
    """What was made of a text, by the layer that made it. No bare dict: torch.compile would look inside."""

    made: dict[nn.Module, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Text:
    """Features (b, len, text_dim), and what was made of them. True as long as the weights stay the same."""

    features: Tensor
    kept: Kept = field(default_factory=Kept)


def once(kept: Kept | None, layer: nn.Module, make: Callable[[], T]) -> T:
    """What `layer` makes: of an earlier step if there is one, and always anew where nothing is kept."""
    if kept is None:
        return make()
    if layer not in kept.made:
        kept.made[layer] = make()
    return kept.made[layer]


class Texts:
    """The last texts of one sampling run: equal features give the same `Text`."""

    def __init__(self) -> None:
        self.seen = deque[Text](maxlen=MOST_TEXTS)

    def __call__(self, features: Tensor) -> Text:
        for text in self.seen:
            if text.features is features or _same(text.features, features):
                return text
        self.seen.append(Text(features))
        return self.seen[-1]


class ReadingOnce:
    """A model for one sampling run: it reads each text in the first step that has it."""

    def __init__(self, model: Callable[..., AV[Tensor | None]]) -> None:
        self.model, self.texts = model, Texts()

    def __call__(
        self, latent: AV, timestep: AV, context: AV[Tensor | None], *args: Any, **options: Any
    ) -> AV[Tensor | None]:
        return self.model(latent, timestep, context.map(self.texts), *args, **options)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
