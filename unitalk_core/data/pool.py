"""Synthetic clips made by several processes, in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from typing import Protocol

import torch

from .synthetic import SyntheticClip, synthesize_clip


class Draw(Protocol):
    def __call__(self, indices: Iterable[int]) -> Iterator[SyntheticClip]: ...


@contextmanager
def clip_pool(seed: int, workers: int = 1, *, frames: bool = True) -> Iterator[Draw]:
    """`draw(indices)` gives the training clips of these indices, whichever process makes them."""
    make = partial(synthesize_clip, seed, frames=frames)
    if workers == 1:
        yield partial(map, make)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        yield partial(pool.map, make, chunksize=4)
