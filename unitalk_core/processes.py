"""The processes that a launcher (torchrun, accelerate launch) has started for one command."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch.distributed import Store

T = TypeVar("T")
PATIENCE = timedelta(days=7)  # of one process for another: their clips may take unequally long


@dataclass(frozen=True)
class Processes:
    """This process among `size`, by its number. store: what all of them count in; None for one alone."""

    rank: int = 0
    size: int = 1
    store: Store | None = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def gather(self, one: T) -> list[T]:
        """What each process brings, in their order, for all of them."""
        if self.size == 1:
            return [one]
        from torch.distributed import all_gather_object

        found = [None] * self.size
        all_gather_object(found, one)
        return found

    def everywhere(self, make: Callable[[], T]) -> T:
        """`make()` on each. If it fails on any, the first raises that as a ValueError; the others leave."""
        if self.size == 1:
            return make()
        made, told = None, None
        try:
            made = make()
        except (ValueError, OSError, ImportError) as error:
            told = str(error)
        failed = [one for one in self.gather(told) if one is not None]
        if failed and self.first:
            raise ValueError(failed[0])
        if failed:
            raise SystemExit(2)
        return made

    def once(self, make: Callable[[], T]) -> T:
        """`make()` on the first one, and what it made for all."""
        return self.gather(self.everywhere(lambda: make() if self.first else None))[0]

    def share(self, count: int) -> Iterator[int]:
        """Numbers below `count`, each for one process alone: whoever is free takes the next."""
        numbers = itertools.count() if self.store is None else iter(self._next, None)
        return itertools.takewhile(lambda number: number < count, numbers)

    def _next(self) -> int:
        return self.store.add("shared", 1) - 1


@contextmanager
def together() -> Iterator[Processes]:
    """All processes of this launch; one alone where nobody launched several."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    import torch
    from torch import distributed

    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    store, rank, size = next(distributed.rendezvous("env://"))
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield Processes(rank, size, store)
    finally:
        distributed.destroy_process_group()
