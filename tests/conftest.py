"""What every test may ask for: the project's root and its source files. Nothing here reaches the network."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder that holds the whole project."""
    return ROOT


@pytest.fixture(scope="session")
def shipped() -> list[Path]:
    """Every file that a clone holds, relative to the root: tracked, or new and not ignored."""
    listing = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listing, check=True, capture_output=True, text=True).stdout.split("\0")
    return sorted(Path(name) for name in set(names) if name and (ROOT / name).is_file())


@pytest.fixture(scope="session")
def sources(shipped: list[Path]) -> list[Path]:
    """The Python files of the project itself, tests left out."""
    return [path for path in shipped if path.suffix == ".py" and path.parts[0] != "tests"]
