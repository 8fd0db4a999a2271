"""One function over many things, in several processes, in order."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from typing import Any

import torch

Spread = Callable[[Iterable[Any]], Iterator[Any]]


@contextmanager
def workers(make: Callable[[Any], Any], processes: int) -> Iterator[Spread]:
    """`spread(things)` gives `make(thing)` of each, whichever process makes it; one process is this one.

    Tensors travel by value: shared memory would need an open file for each, and more of it than a container
    may have. With several processes `make` must be picklable, and each computes with one thread. Whoever
    leaves early, by an error or a stop, does not wait for what has not begun. ValueError for less than one.
    """
    if processes < 1:
        raise ValueError(f"processes must be at least 1, got {processes}")
    if processes == 1:
        yield partial(map, make)
        return
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _begin, (pickle.dumps(make),))
    try:
        yield lambda things: map(pickle.loads, pool.map(_do, things))
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(make: bytes) -> None:
    torch.set_num_threads(1)
    global _make  # noqa: PLW0603 - one a process
    _make = pickle.loads(make)


def _do(thing: Any) -> bytes:
    return pickle.dumps(_make(thing))
