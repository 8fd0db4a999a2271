"""What saved workflows depend on, read from the source of the nodes: ids, inputs, types, defaults, outputs.

No host is needed and none is imitated: the schemas are read as text. The stored table is `node_table.json`;
after a change that is meant, write it anew with `python tests/rules/node_table.py`.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
STORED = Path(__file__).with_name("node_table.json")

Table = dict[str, dict[str, Any]]


def read_table(root: Path = ROOT) -> Table:
    """Node id -> display name, category, inputs, outputs, as the files in nodes/ say."""
    table = {}
    for path in sorted((root / "nodes").glob("*.py")):
        tree = ast.parse(path.read_text("utf8"))
        for node in tree.body:
            schema = schema_call(node) if isinstance(node, ast.ClassDef) else None
            if schema is not None:
                described = describe(schema, constants(tree))
                table[described.pop("node_id")] = described | {"class": node.name, "file": path.name}
    return dict(sorted(table.items()))


def schema_call(node: ast.ClassDef) -> ast.Call | None:
    """The `io.Schema(...)` of a node class."""
    makers = [one for one in node.body if getattr(one, "name", "") == "define_schema"]
    calls = [one for maker in makers for one in ast.walk(maker) if isinstance(one, ast.Call)]
    return next((one for one in calls if ast.unparse(one.func) == "io.Schema"), None)


def constants(tree: ast.Module) -> dict[str, Any]:
    """Literals that the file gives a name, such as what two inputs share."""
    named = [one for one in tree.body if isinstance(one, ast.Assign) and isinstance(one.targets[0], ast.Name)]
    return {one.targets[0].id: value(one.value) for one in named}


def describe(schema: ast.Call, shared: dict[str, Any]) -> dict[str, Any]:
    given = {one.arg: one.value for one in schema.keywords}
    return {
        "node_id": value(given["node_id"]),
        "display_name": value(given["display_name"]),
        "category": value(given["category"]),
        "description": value(given["description"]),
        "inputs": [describe_input(one, shared) for one in given["inputs"].elts],
        "outputs": [describe_output(one) for one in given["outputs"].elts],
    }


def describe_input(call: ast.Call, shared: dict[str, Any]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for one in call.keywords:
        given |= shared[one.value.id] if one.arg is None else {one.arg: value(one.value)}
    kept = {
        name: given[name]
        for name in ("default", "options", "optional", "control_after_generate")
        if name in given
    }
    return {"id": value(call.args[0]), "type": socket(call), **kept, "tooltip": given.get("tooltip", "")}


def describe_output(call: ast.Call) -> dict[str, Any]:
    given = {one.arg: value(one.value) for one in call.keywords}
    return {"name": given.get("display_name", ""), "type": socket(call)}


def socket(call: ast.Call) -> str:
    """`io.Latent.Input` -> LATENT, `io.LoraModel.Output` -> LORA_MODEL"""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", ast.unparse(call.func).split(".")[1]).upper()


def value(node: ast.expr) -> Any:
    """A literal as itself; anything that only the host knows as its source text."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def stored_table() -> Table:
    return json.loads(STORED.read_text("utf8"))


def promise(table: Table) -> Table:
    """The part that old workflows depend on: everything but the prose."""
    return {
        name: {
            "inputs": [{k: v for k, v in one.items() if k != "tooltip"} for one in node["inputs"]],
            "outputs": node["outputs"],
        }
        for name, node in table.items()
    }


if __name__ == "__main__":
    STORED.write_text(json.dumps(promise(read_table()), indent=1) + "\n", "utf8")
