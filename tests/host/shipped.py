"""The shipped workflows as the tests run them: both formats, quick or small where that is enough."""

from __future__ import annotations

import json
from typing import Any

from tests.rules.node_table import ROOT

FOLDER = ROOT / "workflows"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
CONTROLS = ("fixed", "randomize", "increment", "decrement")
QUICK = {
    **{kind: {"steps": 4} for kind in ("UniTalkJointSampler", "UniTalkSchedule", "BasicScheduler")},
    "UniTalkTrainLoRA": {"steps": 4, "settings": "validation.every=2\nvalidation.steps=2"},
    "UniTalkTrainFull": {
        "steps": 2,
        "settings": "validation.every=2\nvalidation.steps=2\nmemory.compile=false",
    },
}
SMALL = {
    "UniTalkEmptyLatent": {"width": 64, "height": 64, "seconds": 0.3},
    "UniTalkJointSampler": {"steps": 2},
}

Graph = dict[str, Any]


def read(name: str, *, quick: bool, small: bool = False) -> tuple[Graph, Graph]:
    """The canvas and the API form of a workflow.

    quick: it samples and trains a few steps. small: it samples two steps of a small and short clip.
    """
    canvas = json.loads((FOLDER / f"{name}.json").read_text("utf8"))
    api = json.loads((FOLDER / "api" / f"{name}.json").read_text("utf8"))
    changes = (QUICK if quick else {}) | (SMALL if small else {})
    for node in canvas["nodes"]:
        for key, value in changes.get(node["type"], {}).items():
            node["widgets_values"][place(node, key)] = value
            api[str(node["id"])]["inputs"][key] = value
    return canvas, api


def place(node: Graph, name: str) -> int:
    """Where a widget's value is; a seed is followed by what happens to it after a run."""
    at = 0
    for one in (one["name"] for one in node["inputs"] if "widget" in one):
        if one == name:
            return at
        at += 2 if one.endswith("seed") and node["widgets_values"][at + 1] in CONTROLS else 1
    raise KeyError(f"{node['type']} has no widget {name}")


def problems(canvas: Graph, api: Graph, seen: Graph) -> list[str]:
    """What the browser saw that is not as it should be; `seen` is what browser.mjs wrote."""
    if "error" in seen:
        return [seen["error"]]
    prompt = {key: {part: node[part] for part in ("class_type", "inputs")} for key, node in api.items()}
    wrong = {
        f"missing nodes: {', '.join(seen['missing'])}": seen["missing"],
        f"{seen['nodes']} nodes of {len(canvas['nodes'])}": seen["nodes"] != len(canvas["nodes"]),
        "another prompt than the API file": seen["prompt"] != prompt,
        str(seen.get("ended")): seen.get("ended", "execution_success") != "execution_success",
        f"videos do not play: {(still := standing(canvas, seen))}": still,
        f"nodes over each other: {(over := overlapping(seen['boxes']))}": over,
    }
    return [text for text, is_wrong in wrong.items() if is_wrong]


def standing(canvas: Graph, seen: Graph) -> list[int]:
    """The nodes of a graph that was run whose video did not play."""
    videos = [node["id"] for node in canvas["nodes"] if node["type"] == "SaveVideo" and "ended" in seen]
    return [one for one in videos if not seen.get("playing", {}).get(str(one))]


def overlapping(boxes: dict[str, list[float]]) -> list[tuple[str, str]]:
    """Pairs of nodes that lie over each other; boxes are x, y, width, height without the title."""
    areas = {key: (x, y - 30, x + width, y + height) for key, (x, y, width, height) in boxes.items()}
    return [
        (one, other)
        for one, a in areas.items()
        for other, b in areas.items()
        if one < other and a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
    ]
