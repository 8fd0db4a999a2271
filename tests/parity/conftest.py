"""Settings every parity test shares: the goldens were made on one thread, without gradients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from . import goldens


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.parity)


def pytest_report_header() -> str:
    return f"goldens: {goldens.directory()}"


@pytest.fixture(autouse=True)
def _as_the_goldens_were_made() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)
