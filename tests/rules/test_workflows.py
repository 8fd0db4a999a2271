"""The shipped workflows: they name nodes and inputs that exist, and both formats are the same graph."""

from __future__ import annotations

import importlib.util
import json
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.rules.node_table import ROOT, read_table

TABLE = read_table()
FOLDER = ROOT / "workflows"
GRAPHS = sorted(path.stem for path in FOLDER.glob("*.json"))
NOTES = {"MarkdownNote", "Note"}
SEEDS = {"seed", "noise_seed"}  # stock widgets that are followed by "control after generate"
THUMBNAIL_KB = 200
ONCE_RUN = {"UniTalkLoadModel": 176, "UniTalkAssembleModel": 200}  # pixels, with the line that they then show
LOADERS = ("UniTalk Load Model", "CLIPLoader", "VAELoader", "UniTalk Load Audio VAE")
REAL_WEIGHTS = (*LOADERS, "704", "steps", "shift")

Graph = dict[str, Any]


def read(name: str) -> Graph:
    return json.loads((FOLDER / f"{name}.json").read_text("utf8"))


def read_api(name: str) -> Graph:
    return json.loads((FOLDER / "api" / f"{name}.json").read_text("utf8"))


def to_api(graph: Graph) -> Graph:
    """The canvas format as the prompt that the frontend sends: titles left out, notes dropped."""
    sources = {link[0]: [str(link[1]), link[2]] for link in graph["links"]}
    return {
        str(node["id"]): {"class_type": node["type"], "inputs": given(node, sources)}
        for node in graph["nodes"]
        if node["type"] not in NOTES
    }


def given(node: Graph, sources: dict[int, list[Any]]) -> Graph:
    """What each input of a node gets: its widget's value, or the output that is linked to it."""
    values, inputs = iter(node["widgets_values"]), {}
    for one in node["inputs"]:
        if "widget" in one:
            inputs[one["name"]] = next(values)
            if has_seed_control(node["type"], one["name"]):
                assert next(values) in ("fixed", "randomize", "increment", "decrement")
        if one["link"] is not None:
            inputs[one["name"]] = sources[one["link"]]
    assert not list(values), f"{node['type']} has more widget values than widgets"
    return inputs


def has_seed_control(kind: str, name: str) -> bool:
    own = {one["id"]: one for one in TABLE.get(kind, {"inputs": []})["inputs"]}
    return own.get(name, {}).get("control_after_generate", False) if kind in TABLE else name in SEEDS


def jpeg_size(path: Path) -> int:
    data = path.read_bytes()
    assert data[:3] == b"\xff\xd8\xff", f"{path.name} is no JPEG"
    return len(data)


@pytest.fixture(scope="module")
def arranging() -> ModuleType:
    spec = importlib.util.spec_from_file_location("arranging", ROOT / "docs" / "arrange_workflows.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_node_is_used_by_a_workflow():
    used = {node["type"] for name in GRAPHS for node in read(name)["nodes"]}
    assert not sorted(TABLE.keys() - used)


def test_no_api_graph_is_without_its_canvas():
    assert sorted(path.stem for path in (FOLDER / "api").glob("*.json")) == GRAPHS


@pytest.mark.parametrize("name", GRAPHS)
def test_both_formats_are_the_same_graph(name):
    api = {
        key: {part: node[part] for part in ("class_type", "inputs")} for key, node in read_api(name).items()
    }
    assert to_api(read(name)) == api


@pytest.mark.parametrize("name", GRAPHS)
def test_our_nodes_get_the_inputs_they_have_and_no_others(name):
    for node in (one for one in read_api(name).values() if one["class_type"] in TABLE):
        known = {one["id"]: one for one in TABLE[node["class_type"]]["inputs"]}
        needed = {key for key, one in known.items() if not one.get("optional")}
        assert needed <= node["inputs"].keys() <= known.keys(), node["class_type"]
        for key, chosen in node["inputs"].items():
            options = known[key].get("options")
            assert not isinstance(options, list) or chosen in options, (node["class_type"], key)


@pytest.mark.parametrize("name", GRAPHS)
def test_the_canvas_shows_every_input_of_our_nodes(name):
    """The frontend adds what is left out: its prompt would be another than the shipped one."""
    for node in (one for one in read(name)["nodes"] if one["type"] in TABLE):
        known = {one["id"] for one in TABLE[node["type"]]["inputs"]}
        assert {one["name"] for one in node["inputs"]} == known, node["type"]


@pytest.mark.parametrize("name", GRAPHS)
def test_links_join_outputs_and_inputs_of_one_type(name):
    graph = read(name)
    nodes = {node["id"]: node for node in graph["nodes"]}
    for number, source, slot, target, place, kind in graph["links"]:
        start, end = nodes[source]["outputs"][slot], nodes[target]["inputs"][place]
        assert number in start["links"]
        assert end["link"] == number
        assert start["type"] == kind == end["type"], (nodes[source]["type"], nodes[target]["type"])


@pytest.mark.parametrize("name", GRAPHS)
def test_links_of_our_nodes_fit_the_table(name):
    api = read_api(name)
    for node in api.values():
        known = {one["id"]: one for one in TABLE.get(node["class_type"], {"inputs": []})["inputs"]}
        for key, chosen in node["inputs"].items():
            source = api[chosen[0]]["class_type"] if isinstance(chosen, list) else None
            if source in TABLE and key in known:
                assert TABLE[source]["outputs"][chosen[1]]["type"] == known[key]["type"], (source, key)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_note_explains_the_graph(name):
    notes = [node["widgets_values"][0] for node in read(name)["nodes"] if node["type"] in NOTES]
    assert any(len(text) > 100 for text in notes)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_with_the_small_model_says_what_real_weights_need(name):
    nodes = read(name)["nodes"]
    notes = " ".join(node["widgets_values"][0] for node in nodes if node["type"] in NOTES)
    if any(node["type"] == "UniTalkLoadEmbedded" for node in nodes):
        assert not [word for word in REAL_WEIGHTS if word not in notes]


@pytest.mark.parametrize("name", GRAPHS)
def test_no_node_lies_on_another_and_links_lead_to_the_right(arranging, name):
    graph = read(name)
    places = {node["id"]: arranging.box(node) for node in graph["nodes"]}
    over = [pair for pair in combinations(places, 2) if arranging.overlap(*(places[one] for one in pair))]
    assert not over, over
    assert all(places[source][0] <= places[target][0] for _, source, _, target, _, _ in graph["links"])


@pytest.mark.parametrize("name", GRAPHS)
def test_a_node_has_room_for_the_line_that_a_run_adds_to_it(name):
    """The frontend makes it higher, and it would lie over the one below."""
    heights = [(node["type"], node["size"][1]) for node in read(name)["nodes"]]
    assert not [(kind, height) for kind, height in heights if height < ONCE_RUN.get(kind, 0)]


@pytest.mark.parametrize("name", GRAPHS)
def test_every_node_but_notes_lies_in_one_titled_group(arranging, name):
    graph = read(name)
    assert all(group["title"] for group in graph["groups"])
    for node in (one for one in graph["nodes"] if one["type"] not in NOTES):
        assert sum(arranging.within(node, group) for group in graph["groups"]) == 1, node["type"]
    areas = [arranging.area(group) for group in graph["groups"]]
    assert not [pair for pair in combinations(areas, 2) if arranging.overlap(*pair)]


@pytest.mark.parametrize("name", GRAPHS)
def test_an_arranged_graph_stays_as_it_is(arranging, name):
    graph = read(name)
    arranging.arrange(graph)
    assert graph == read(name)


@pytest.mark.parametrize("name", GRAPHS)
def test_the_graph_has_a_small_thumbnail(name):
    assert 2_000 < jpeg_size(FOLDER / f"{name}.jpg") < THUMBNAIL_KB * 1000


def test_no_two_graphs_have_the_same_thumbnail():
    pictures = [(FOLDER / f"{name}.jpg").read_bytes() for name in GRAPHS]
    assert len(set(pictures)) == len(pictures)


@pytest.mark.parametrize("name", GRAPHS)
def test_saving_is_left_to_what_every_host_version_knows(name):
    saves = [node["inputs"] for node in read_api(name).values() if node["class_type"] == "SaveVideo"]
    assert saves
    assert all(one["format"] == one["codec"] == "auto" for one in saves)
