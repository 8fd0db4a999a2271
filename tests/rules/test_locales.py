"""The words on the nodes: English as in the schemas, and translations that fit the nodes they are for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.rules.node_table import ROOT, read_table

TABLE = read_table()
LANGUAGES = sorted(path.name for path in (ROOT / "locales").iterdir())


def words(language: str, file: str = "nodeDefs") -> dict[str, Any]:
    return json.loads((ROOT / "locales" / language / f"{file}.json").read_text("utf8"))


def test_english_says_what_the_schemas_say():
    english = words("en")
    assert english.keys() == TABLE.keys()
    for name, node in TABLE.items():
        said = english[name]
        assert (said["display_name"], said["description"]) == (node["display_name"], node["description"])
        tooltips = {key: one["tooltip"] for key, one in said.get("inputs", {}).items()}
        assert tooltips == {one["id"]: one["tooltip"] for one in node["inputs"]}, name


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_translated_node_has_words_for_each_input_and_output_and_no_others(language):
    for name, said in words(language).items():
        assert list(said.get("inputs", {})) == [one["id"] for one in TABLE[name]["inputs"]], name
        assert list(said["outputs"]) == [str(i) for i in range(len(TABLE[name]["outputs"]))], name
        texts = [one[key] for one in said.get("inputs", {}).values() for key in ("name", "tooltip")]
        assert all([said["display_name"], said["description"], *texts]), name


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_menu_has_the_same_entries_in_every_language(language):
    assert words(language, "main")["nodeCategories"].keys() == words("en", "main")["nodeCategories"].keys()
