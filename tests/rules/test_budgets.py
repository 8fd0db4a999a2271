"""Sizes that keep the code readable. The allow-lists may only shrink: an entry no longer needed fails."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

FUNCTION_LINES = 60
FILE_LINES = 500
VAE_LINES = 750
PARAMETERS = 8
NODE_INPUTS = 12

LONG_FUNCTIONS: dict[str, int] = {}  # "file:function": lines
LONG_FILES: dict[str, int] = {}  # "file": lines
WIDE_FUNCTIONS: dict[str, int] = {}  # "file:function": parameters
WIDE_NODES: dict[str, int] = {}  # node class: inputs

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(path: Path) -> Iterator[Function]:
    return (n for n in ast.walk(ast.parse(path.read_text("utf8"))) if isinstance(n, Function))


def parameters(function: Function) -> int:
    """How many things a caller may hand over; self and cls do not count."""
    args = function.args
    named = [a.arg for a in [*args.posonlyargs, *args.args, *args.kwonlyargs]]
    return len([name for name in named if name not in ("self", "cls")]) + bool(args.vararg) + bool(args.kwarg)


def over(found: dict[str, int], limit: int, allowed: dict[str, int]) -> list[str]:
    """Everything above the limit without an entry, above its entry, or with an entry it does not need."""
    large = {name: size for name, size in found.items() if size > limit}
    grown = [
        f"{name}: {size} > {allowed.get(name, limit)}"
        for name, size in large.items()
        if size > allowed.get(name, 0)
    ]
    stale = [
        f"{name}: the entry {size} can shrink to {large.get(name, 0)}"
        for name, size in allowed.items()
        if large.get(name, 0) < size
    ]
    return sorted(grown + stale)


def test_functions_fit_on_a_screen(root, sources):
    sizes = {f"{p}:{f.name}": f.end_lineno - f.lineno + 1 for p in sources for f in functions(root / p)}
    assert not over(sizes, FUNCTION_LINES, LONG_FUNCTIONS)


def test_functions_take_few_things(root, sources):
    counts = {
        f"{p}:{f.name}": parameters(f)
        for p in sources
        for f in functions(root / p)
        if not (p.parts[0] == "nodes" and f.name in ("execute", "validate_inputs", "fingerprint_inputs"))
    }
    assert not over(counts, PARAMETERS, WIDE_FUNCTIONS)


def test_files_stay_short(root, shipped):
    lines = {str(p): len((root / p).read_text("utf8").splitlines()) for p in shipped if p.suffix == ".py"}
    vaes = {name: count for name, count in lines.items() if name.endswith("_vae.py")}
    others = {name: count for name, count in lines.items() if name not in vaes}
    assert not over(others, FILE_LINES, LONG_FILES) + over(vaes, VAE_LINES, {})


def node_inputs(root: Path, sources: list[Path]) -> dict[str, int]:
    """Inputs of each node class, counted where its schema is written."""
    counts = {}
    for path in (p for p in sources if p.parts[0] == "nodes"):
        for node in ast.walk(ast.parse((root / path).read_text("utf8"))):
            body = node.body if isinstance(node, ast.ClassDef) else []
            schemas = [f for f in body if getattr(f, "name", "") == "define_schema"]
            if schemas:
                lists = [
                    k.value for k in ast.walk(schemas[0]) if isinstance(k, ast.keyword) and k.arg == "inputs"
                ]
                counts[node.name] = sum(len(one.elts) for one in lists if isinstance(one, ast.List))
    return counts


def test_nodes_have_few_inputs(root, sources):
    assert not over(node_inputs(root, sources), NODE_INPUTS, WIDE_NODES)
