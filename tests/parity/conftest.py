"""Settings every parity test shares: the goldens were made on one thread, without gradients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from . import goldens


def pytest_report_header() -> str:
    return f"goldens: {goldens.directory()}"


@pytest.fixture(autouse=True)
def _as_the_goldens_were_made() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)
