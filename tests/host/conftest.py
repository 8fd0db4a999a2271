"""Finds a real ComfyUI. Nothing of it runs in this process: the tests start it and look at what it did.

COMFYUI_PATH names the host, else ~/ComfyUI is taken, else the host whose custom_nodes folder holds this pack.
COMFYUI_PYTHON names its Python, else its own venv is taken, else the Python that runs the tests.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.host.miniature import save_random_miniature
from tests.host.serving import Server
from unitalk_core.weights.loading import EMBEDDED, EMBEDDED_FILES

PACK = Path(__file__).resolve().parents[2]
INSIDE = Path(__file__).with_name("inside")


@dataclass(frozen=True)
class Host:
    """A ComfyUI checkout and the Python that runs it."""

    path: Path
    python: Path
    version: tuple[int, ...]

    def run(self, *args: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        command = [str(self.python), *map(str, args)]
        return subprocess.run(
            command,
            cwd=self.path,
            env=os.environ | (env or {}),
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
        )


def host_at(path: Path) -> Host:
    found = re.search(r'"([\d.]+)"', (path / "comfyui_version.py").read_text("utf8"))
    return Host(path, python_of(path), tuple(int(part) for part in found[1].split(".")))


def python_of(path: Path) -> Path:
    own = [path / place for place in ("venv/bin/python", ".venv/bin/python", "venv/Scripts/python.exe")]
    named = [Path(os.environ["COMFYUI_PYTHON"])] if os.environ.get("COMFYUI_PYTHON") else []
    return next((one for one in [*named, *own] if one.exists()), Path(sys.executable))


def places() -> Iterator[Path]:
    if os.environ.get("COMFYUI_PATH"):
        yield Path(os.environ["COMFYUI_PATH"])
        return
    yield Path.home() / "ComfyUI"
    if PACK.parent.name == "custom_nodes":
        yield PACK.parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in Path(item.path).parents:
            item.add_marker(pytest.mark.host)


@pytest.fixture(scope="session")
def host() -> Host:
    """The ComfyUI to test with."""
    looked = list(places())
    found = [place for place in looked if (place / "comfyui_version.py").is_file()]
    if not found:
        pytest.skip(f"there is no ComfyUI at {' or '.join(map(str, looked))}; COMFYUI_PATH names one")
    return host_at(found[0])


@pytest.fixture(scope="session")
def random_miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of an untrained miniature: small, quick, and read by the real loaders."""
    return save_random_miniature(tmp_path_factory.mktemp("embedded"))


@pytest.fixture(scope="session")
def miniature(random_miniature: Path) -> Path:
    """The miniature that is shipped, or the untrained one where a checkout has none."""
    return EMBEDDED if all((EMBEDDED / name).is_file() for name in EMBEDDED_FILES) else random_miniature


@pytest.fixture(scope="session")
def measured(
    host: Host, random_miniature: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Any]:
    """What `inside/` measured in the host's process, by name; one process measures everything."""
    out = tmp_path_factory.mktemp("measured") / "measured.json"
    done = host.run(
        INSIDE, PACK, out, env={"UNITALK_EMBEDDED": str(random_miniature), "OMP_NUM_THREADS": "1"}
    )
    if not out.is_file():
        pytest.fail(f"the host's process ended with {done.returncode}:\n{done.stderr[-4000:]}", pytrace=False)
    results = json.loads(out.read_text("utf8"))

    def value(name: str) -> Any:
        result = results[name]
        if "missing" in result:
            pytest.skip(result["missing"])
        if "error" in result:
            pytest.fail(result["error"], pytrace=False)
        return result["value"]

    return value


@pytest.fixture(scope="session")
def server(host: Host, miniature: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running ComfyUI with this pack in its custom_nodes folder and nothing else."""
    base = tmp_path_factory.mktemp("comfyui")
    with Server.start(host.python, host.path, PACK, base, {"UNITALK_EMBEDDED": str(miniature)}) as running:
        yield running


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
