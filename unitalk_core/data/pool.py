"""Synthetic clips made by several processes, in order."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial

from ..workers import Spread, workers
from .synthetic import synthesize_clip


def clip_pool(seed: int, processes: int = 1, *, frames: bool = True) -> AbstractContextManager[Spread]:
    """`draw(indices)` gives the training clips of these indices, whichever process makes them."""
    return workers(partial(synthesize_clip, seed, frames=frames), processes)
