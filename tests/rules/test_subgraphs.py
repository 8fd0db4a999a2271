"""The subgraphs of the node library: one node outside, and inside a graph of nodes and inputs that exist."""

from __future__ import annotations

import importlib.util
import json
from itertools import combinations
from typing import Any

import pytest

from tests.rules.node_table import ROOT, read_table

TABLE = read_table()
FILES = sorted((ROOT / "subgraphs").glob("*.json"))
OUTSIDE, INSIDE = -10, -20  # the ids of a subgraph's own inputs and outputs
IDS = [path.stem for path in FILES]


def read(path: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The node that an artist places, and the subgraph behind it."""
    blueprint = json.loads(path.read_text("utf8"))
    ((node,), (subgraph,)) = blueprint["nodes"], blueprint["definitions"]["subgraphs"]
    return node, subgraph


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_the_node_is_the_subgraph_and_says_what_it_does(path):
    node, subgraph = read(path)
    assert node["type"] == subgraph["id"]
    assert node["title"] == subgraph["name"] == path.stem
    for side in ("inputs", "outputs"):
        outer, inner = ([(one["name"], one["type"]) for one in part[side]] for part in (node, subgraph))
        assert outer == inner
    assert "UniTalk Load Model" in subgraph["description"]


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_our_nodes_inside_have_their_inputs_and_a_value_for_each_widget(path):
    for node in (one for one in read(path)[1]["nodes"] if one["type"] in TABLE):
        known = {one["id"]: one for one in TABLE[node["type"]]["inputs"]}
        widgets = [one["name"] for one in node["inputs"] if "widget" in one]
        seeds = [name for name in widgets if known[name].get("control_after_generate")]
        assert {one["name"] for one in node["inputs"]} == known.keys(), node["type"]
        assert len(node["widgets_values"]) == len(widgets) + len(seeds), node["type"]


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_links_inside_join_outputs_and_inputs_of_one_type(path):
    subgraph = read(path)[1]
    nodes = {one["id"]: one for one in subgraph["nodes"]}
    nodes |= {OUTSIDE: {"outputs": subgraph["inputs"]}, INSIDE: {"inputs": subgraph["outputs"]}}
    for link in subgraph["links"]:
        start = nodes[link["origin_id"]]["outputs"][link["origin_slot"]]
        end = nodes[link["target_id"]]["inputs"][link["target_slot"]]
        assert start["type"] == link["type"] == end["type"]
        assert link["id"] in start.get("linkIds", start.get("links"))
        assert link["id"] in end.get("linkIds", [end.get("link")])


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_no_node_inside_lies_on_another(path):
    spec = importlib.util.spec_from_file_location("arranging", ROOT / "docs" / "arrange_workflows.py")
    arranging = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(arranging)
    boxes = [arranging.box(node) for node in read(path)[1]["nodes"]]
    assert not [pair for pair in combinations(boxes, 2) if arranging.overlap(*pair)]


def test_there_are_subgraphs():
    assert len(FILES) >= 2
