"""Who may import whom. Lower layers never know higher ones, and the core never knows the host."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

LAYERS = [
    ["av", "child", "geometry", "peak", "processes", "provenance", "workers"],
    ["config"],
    ["models"],
    ["compiled", "diffusion", "parallel", "weights", "media"],
    ["footprint", "kept", "latent_file", "offload", "pitch", "seam", "subtitles"],
    ["folder"],
    ["staged"],
    ["excerpt"],
    ["request"],
    ["pipeline", "data"],
    ["training", "evaluation"],
    ["__main__", "cli"],
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
HOST = {
    "comfy", "comfy_api", "comfy_extras", "comfy_execution", "execution", "folder_paths", "latent_preview",
    "node_helpers", "nodes", "server",
}  # fmt: skip
KNOWS_HOST = {
    "benchmarks/vs_host.py", "nodes/hearing.py", "nodes/host.py", "nodes/model.py", "nodes/sockets.py",
    "nodes/stepping.py",
}  # fmt: skip
HEAVY = {
    "accelerate", "espeakng_loader", "jiwer", "matplotlib", "pocketsphinx", "scipy",
    "tensorboard", "torchaudio", "torchvision", "transformers",
}  # fmt: skip


def imports(path: Path, source: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything a file imports, relative imports resolved from the project's root."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = list(path.parts[: len(path.parts) - node.level]) if node.level else []
            base = [*(["."] if node.level else []), *above, *(node.module.split(".") if node.module else [])]
            yield from ((node.lineno, ".".join([*base, alias.name])) for alias in node.names)


def core_part(name: str) -> str | None:
    """The part of the core that a resolved relative import names, such as "models"."""
    parts = name.lstrip(".").split(".")
    return parts[1] if name.startswith(".") and parts[0] == "unitalk_core" and len(parts) > 1 else None


def test_every_part_of_the_core_has_a_layer(sources):
    parts = {p.parts[1].removesuffix(".py") for p in sources if p.parts[0] == "unitalk_core"} - {"__init__"}
    assert parts <= RANK.keys(), f"give these a layer: {sorted(parts - RANK.keys())}"


def test_lower_layers_of_the_core_never_import_higher_ones(root, sources):
    wrong = []
    for path in (p for p in sources if p.parts[0] == "unitalk_core"):
        own = RANK.get(path.parts[1].removesuffix(".py"), len(LAYERS))
        for line, name in imports(path, (root / path).read_text("utf8")):
            part = core_part(name)
            if part in RANK and RANK[part] > own:
                wrong.append(f"{path}:{line} imports {part}")
    assert not wrong, wrong


def test_the_core_imports_itself_relatively_and_never_the_host(root, sources):
    wrong = [
        f"{path}:{line} imports {name}"
        for path in sources
        if path.parts[0] == "unitalk_core"
        for line, name in imports(path, (root / path).read_text("utf8"))
        if name.split(".")[0] in HOST | {"unitalk_core"} or name.startswith(".nodes")
    ]
    assert not wrong, wrong


def test_only_the_adapters_and_the_model_import_the_host(root, sources):
    wrong = [
        f"{path}:{line} imports {name}"
        for path in sources
        if path.as_posix() not in KNOWS_HOST
        for line, name in imports(path, (root / path).read_text("utf8"))
        if name.split(".")[0] in HOST
    ]
    assert not wrong, wrong


def test_the_pack_imports_nothing_until_the_host_asks(root):
    entry = root / "__init__.py"
    if not entry.exists():
        pytest.skip("the node pack is not part of this checkout")
    loaded = [
        n for n in ast.parse(entry.read_text("utf8")).body if isinstance(n, ast.Import | ast.ImportFrom)
    ]
    assert all(isinstance(n, ast.ImportFrom) and n.module == "__future__" for n in loaded)


def core_modules(root: Path) -> list[str]:
    files = (p.relative_to(root).with_suffix("") for p in (root / "unitalk_core").rglob("*.py"))
    return sorted(".".join(f.parts).removesuffix(".__init__") for f in files)


def run_python(root: Path, code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_core_loads_nothing_heavy_and_touches_no_device(root):
    code = (
        f"import importlib, sys\nfor name in {core_modules(root)!r}: importlib.import_module(name)\n"
        f"import torch\nprint(sorted({HEAVY!r} & sys.modules.keys()), torch.cuda.is_initialized())"
    )
    assert run_python(root, code) == "[] False"


def test_the_command_line_answers_before_torch_is_loaded(root):
    code = "import sys, unitalk_core.__main__\nprint('torch' in sys.modules, 'av' in sys.modules)"
    assert run_python(root, code) == "False False"


def test_every_logger_has_the_fixed_name(root, sources):
    calls = [
        (path, node)
        for path in sources
        for node in ast.walk(ast.parse((root / path).read_text("utf8")))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "getLogger"
    ]
    wrong = [
        f"{path}:{n.lineno}"
        for path, n in calls
        if [getattr(a, "value", None) for a in n.args] != ["unitalk"]
    ]
    assert not wrong, f'logging.getLogger("unitalk"), because __name__ is a path inside the host: {wrong}'
