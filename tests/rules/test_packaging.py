"""What a clone and an installation hold: no torch build forced on a host, no large files, no vague names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

LARGE_HERE = ("unitalk_core/weights/embedded/", "tests/parity/goldens/")
PICTURES = {".jpg", ".jpeg", ".png", ".webp"}
VAGUE_FILES = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "engine", "base", "stuff"}
VAGUE_CLASSES = ("Wrapper", "Factory", "Impl", "Manager", "Helper", "Utils")
HOST_OWNS = {"torch", "torchvision", "torchaudio"}


def requirement_names(text: str) -> set[str]:
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return {re.split(r"[<>=!~\[; ]", line)[0].lower() for line in lines if line}


def pyproject(root: Path) -> dict:
    tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")
    return tomllib.loads((root / "pyproject.toml").read_text("utf8"))


def megabytes(root: Path, shipped: list[Path], under: str) -> float:
    return sum((root / p).stat().st_size for p in shipped if p.as_posix().startswith(under)) / 1e6


def test_requirements_leave_torch_to_the_host(root):
    assert not requirement_names((root / "requirements.txt").read_text("utf8")) & HOST_OWNS


def test_every_requirement_is_pinned_for_the_own_environment(root):
    project = pyproject(root)["project"]
    extras = "\n".join(line for lines in project["optional-dependencies"].values() for line in lines)
    wanted = requirement_names((root / "requirements.txt").read_text("utf8") + extras) | {"torch"}
    pinned = (root / "constraints.txt").read_text("utf8")
    assert wanted <= requirement_names(pinned)
    assert all("==" in line for line in pinned.splitlines() if line and not line.startswith("#"))


def test_the_version_is_the_same_everywhere(root):
    version = pyproject(root)["project"]["version"]
    assert f'__version__ = "{version}"' in (root / "unitalk_core" / "__init__.py").read_text("utf8")
    assert f"## {version}" in (root / "CHANGELOG.md").read_text("utf8")


def test_the_registry_learns_which_host_the_pack_needs(root):
    table = pyproject(root)["tool"]["comfy"]
    assert table["requires-comfyui"] == ">=0.31.0"
    assert {"PublisherId", "DisplayName", "Icon", "web"} <= table.keys()


def test_no_large_files(root, shipped):
    large = [
        f"{p}: {(root / p).stat().st_size} bytes"
        for p in shipped
        if (root / p).stat().st_size > 500_000
        and not p.as_posix().startswith(LARGE_HERE)
        and p.suffix.lower() not in PICTURES
    ]
    assert not large, large


def test_the_embedded_files_and_goldens_stay_small(root, shipped):
    assert megabytes(root, shipped, "unitalk_core/weights/embedded/") <= 20
    assert megabytes(root, shipped, "tests/parity/goldens/") <= 12


def test_an_installation_carries_what_the_core_reads(root, shipped):
    globs = pyproject(root)["tool"]["setuptools"]["package-data"]["unitalk_core"]
    data = [
        p.relative_to("unitalk_core") for p in shipped if p.parts[0] == "unitalk_core" and p.suffix != ".py"
    ]
    missing = [str(p) for p in data if not any(p.match(glob) for glob in globs)]
    assert not missing, f"add these to package-data: {missing}"


def test_files_are_named_after_what_they_hold(shipped):
    vague = [str(p) for p in shipped if p.suffix == ".py" and VAGUE_FILES & set(p.stem.lower().split("_"))]
    assert not vague, vague


def test_classes_have_no_empty_suffix(root, sources):
    trees = {p: ast.parse((root / p).read_text("utf8")) for p in sources}
    vague = [
        f"{p}:{n.lineno} {n.name}"
        for p, tree in trees.items()
        for n in ast.walk(tree)
        if isinstance(n, ast.ClassDef) and n.name.endswith(VAGUE_CLASSES)
    ]
    assert not vague, vague


def test_no_path_of_one_machine_and_no_leftovers(root, shipped):
    leftovers = re.compile(r"(?<![\w.~])/(home|Users|root|work|mnt)/\w|\b(TODO|FIXME|XXX)\b")
    texts = (
        p for p in shipped if p.suffix in {".py", ".md", ".toml", ".txt", ".json", ".yml"} or not p.suffix
    )
    own = Path("tests/rules/test_packaging.py")
    found = [
        f"{p}:{number} {line.strip()[:80]}"
        for p in texts
        if p != own and p.name != "LICENSE"
        for number, line in enumerate((root / p).read_text("utf8", errors="replace").splitlines(), 1)
        if leftovers.search(line)
    ]
    assert not found, found


def test_weights_are_never_loaded_loosely(root, sources):
    calls = [
        (p, n)
        for p in sources
        for n in ast.walk(ast.parse((root / p).read_text("utf8")))
        if isinstance(n, ast.Call)
    ]
    loose = [
        f"{p}:{n.lineno}"
        for p, n in calls
        if getattr(n.func, "attr", "") == "load_state_dict"
        for k in n.keywords
        if k.arg == "strict" and getattr(k.value, "value", True) is False
    ]
    pickles = [
        f"{p}:{n.lineno}"
        for p, n in calls
        if ast.unparse(n.func) == "torch.load"
        and not any(k.arg == "weights_only" and getattr(k.value, "value", None) is True for k in n.keywords)
    ]
    assert not loose + pickles, loose + pickles
