"""Ids, inputs, types, defaults and outputs of the nodes are a promise to every saved workflow."""

from __future__ import annotations

import ast
import json
import re

import pytest

from nodes import check_host
from tests.rules.node_table import ROOT, promise, read_table, schema_call, stored_table

TABLE = read_table()
NODES = sorted(TABLE)
SOCKETS = {
    "AUDIO", "BOOLEAN", "CLIP", "COMBO", "CONDITIONING", "FLOAT", "GUIDER", "IMAGE", "INT", "LATENT",
    "LORA_MODEL", "LOSS_MAP", "MODEL", "NOISE", "SAMPLER", "SIGMAS", "STRING", "VAE", "VIDEO",
}  # fmt: skip
EXECUTE_LINES = 15


def node_class(name: str) -> ast.ClassDef:
    tree = ast.parse((ROOT / "nodes" / TABLE[name]["file"]).read_text("utf8"))
    return next(
        one for one in ast.walk(tree) if isinstance(one, ast.ClassDef) and one.name == TABLE[name]["class"]
    )


def test_the_nodes_keep_their_promise():
    assert promise(TABLE) == stored_table(), "meant? then run python tests/rules/node_table.py"


def test_the_stored_table_notices_a_changed_default():
    changed = json.loads(json.dumps(promise(TABLE)))
    changed["UniTalkJointSampler"]["inputs"][6]["default"] += 1
    assert changed != stored_table()


def test_every_node_class_that_exists_is_offered_to_the_host():
    offered = (ROOT / "nodes" / "__init__.py").read_text("utf8")
    assert sorted(re.findall(r"\.(UniTalk\w+),", offered)) == NODES


@pytest.mark.parametrize("name", NODES)
def test_class_name_and_id_are_one_and_start_with_unitalk(name):
    assert TABLE[name]["class"] == name
    assert name.startswith("UniTalk")
    assert TABLE[name]["category"].startswith("UniTalk/")


@pytest.mark.parametrize("name", NODES)
def test_a_scanner_that_does_not_run_the_pack_finds_the_node(name):
    bases = [ast.unparse(base) for base in node_class(name).bases]
    literal = next(one.value for one in schema_call(node_class(name)).keywords if one.arg == "node_id")
    assert bases == ["io.ComfyNode"]
    assert isinstance(literal, ast.Constant)


@pytest.mark.parametrize("name", NODES)
def test_sockets_are_stock_and_every_input_says_what_it_is_for(name):
    node = TABLE[name]
    assert {one["type"] for one in [*node["inputs"], *node["outputs"]]} <= SOCKETS
    assert node["description"].endswith(".")
    assert not [one["id"] for one in node["inputs"] if len(one["tooltip"]) < 10]
    assert not [
        one["id"]
        for one in node["inputs"]
        if one["type"] in ("INT", "FLOAT", "STRING") and "default" not in one
    ]
    assert len({one["id"] for one in node["inputs"]}) == len(node["inputs"])
    assert all(one["name"] for one in node["outputs"])


@pytest.mark.parametrize("name", NODES)
def test_execute_takes_the_inputs_in_order_and_is_short(name):
    execute = next(one for one in node_class(name).body if getattr(one, "name", "") == "execute")
    body = execute.body[-1].end_lineno - execute.body[0].lineno + 1
    assert [one.arg for one in execute.args.args[1:]] == [one["id"] for one in TABLE[name]["inputs"]]
    assert body <= EXECUTE_LINES


@pytest.mark.parametrize("name", NODES)
def test_the_help_page_names_every_input_and_output(name):
    page = ROOT / "web" / "docs" / f"{name}.md"
    text = page.read_text("utf8")
    named = set(re.findall(r"`([\w-]+)`", text))
    missing = {one["id"] for one in TABLE[name]["inputs"]} | {one["name"] for one in TABLE[name]["outputs"]}
    assert missing <= named, f"{page.name} does not explain {sorted(missing - named)}"


@pytest.mark.parametrize("name", sorted(TABLE))
def test_the_help_page_shows_its_node(name):
    page, picture = ROOT / "web" / "docs" / f"{name}.md", ROOT / "web" / "docs" / f"{name}.png"
    assert f"]({picture.name})" in page.read_text("utf8"), (
        f"{name}: python -m tests.host.run_workflows --pictures"
    )
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 30_000


def test_no_help_page_or_translation_is_left_of_a_node_that_is_gone():
    pages = {path.stem for path in (ROOT / "web" / "docs").glob("*.md")}
    assert pages == set(NODES)
    for path in (ROOT / "locales").glob("*/nodeDefs.json"):
        assert set(json.loads(path.read_text("utf8"))) == set(NODES), path


def test_translations_name_inputs_that_exist():
    for path in (ROOT / "locales").glob("*/nodeDefs.json"):
        for name, node in json.loads(path.read_text("utf8")).items():
            assert set(node.get("inputs", {})) <= {one["id"] for one in TABLE[name]["inputs"]}, (path, name)


@pytest.mark.parametrize("version", ["0.30.9", "0.30", "0.8.0", "0.3.64"])
def test_an_older_host_hears_in_one_sentence_what_is_needed(version):
    said = f"ComfyUI-UniTalk needs ComfyUI 0.31.0 or newer, this is {version}; update ComfyUI"
    with pytest.raises(RuntimeError, match=f"^{re.escape(said)}$"):
        check_host(version)


@pytest.mark.parametrize("version", ["0.31.0", "0.31", "0.33.0", "0.100.2", "1.0", "nightly"])
def test_a_host_that_will_do_is_taken(version):
    check_host(version)


def test_the_samplers_offered_are_the_samplers_of_the_core():
    from unitalk_core.diffusion.samplers import SAMPLERS
    from unitalk_core.models.markup import SOUND_FORMS

    inputs = {name: {one["id"]: one for one in node["inputs"]} for name, node in TABLE.items()}
    assert inputs["UniTalkJointSampler"]["sampler"]["options"] == list(SAMPLERS)
    assert inputs["UniTalkTextEncode"]["markup"]["options"] == ["auto", *SOUND_FORMS]
