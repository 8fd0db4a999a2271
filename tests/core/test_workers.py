"""Things made by several processes come in order and by value, and an error or a stop ends them."""

from __future__ import annotations

import os
import resource
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from unitalk_core.workers import workers


def whose(number: int) -> tuple[int, int]:
    time.sleep(0.2 if number == 0 else 0)
    return number, os.getpid()


def parts(number: int) -> list[torch.Tensor]:
    return [torch.full((2,), number) for _ in range(20)]


def note(folder: Path, number: int) -> int:
    (folder / str(number)).touch()
    time.sleep(0.1)
    if number == 1:
        raise ValueError("the second fails")
    return number


def test_they_come_in_order_whichever_is_ready_first() -> None:
    with workers(whose, 2) as spread:
        numbers, makers = zip(*spread(range(6)), strict=True)
    assert numbers == (0, 1, 2, 3, 4, 5)
    assert os.getpid() not in makers


def test_one_process_is_this_one() -> None:
    with workers(whose, 1) as spread:
        assert list(spread([3])) == [(3, os.getpid())]


def test_many_tensors_need_no_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, opened + 60), hard))
    try:
        with workers(parts, 2) as spread:
            made = list(spread(range(20)))  # 400 tensors
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [int(one[-1][0]) for one in made] == list(range(20))


def test_an_error_ends_what_has_not_begun(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the second fails"), workers(partial(note, tmp_path), 2) as spread:
        list(spread(range(200)))
    assert len(list(tmp_path.iterdir())) < 100


def test_less_than_one_process_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"), workers(whose, 0):
        pass
