"""Lay the shipped workflows out: columns from left to right, groups around them, nothing over anything else.

Nodes that begin at the same x are a column and keep their order; notes above the first row stay above it.

python docs/arrange_workflows.py
"""

from __future__ import annotations

import json
import math
from itertools import groupby
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "workflows"
TITLE, GAP, FIRST_ROW = 30, 60, 120  # pixels: height of a node's title, free space, y of the first row
MARGIN, GROUP_TITLE = 20, 50
COLUMN = 40  # nodes whose x differ by less are one column

Graph = dict[str, Any]
Node = dict[str, Any]
Box = tuple[float, float, float, float]  # left, top, right, bottom


def box(node: Node) -> Box:
    """The rectangle of a node on the canvas, title included."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE, x + width, y + height


def area(group: Graph) -> Box:
    x, y, width, height = group["bounding"]
    return x, y, x + width, y + height


def overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def arrange(graph: Graph) -> None:
    """Set the positions of a graph's nodes, and its groups around them."""
    inside = [[node for node in graph["nodes"] if within(node, group)] for group in graph["groups"]]
    x = 0
    for column in columns(graph["nodes"]):
        stack(column, x)
        x += max(node["size"][0] for node in column if not is_above(node)) + GAP
    for group, members in zip(graph["groups"], inside, strict=True):
        group["bounding"] = around([box(node) for node in members if not is_above(node)])
    bottom = max((y + height for _, y, _, height in (one["bounding"] for one in graph["groups"])), default=0)
    for group in graph["groups"]:
        group["bounding"][3] = bottom - group["bounding"][1]


def columns(nodes: list[Node]) -> list[list[Node]]:
    """Nodes by their x, each column by their y."""
    ordered = sorted(nodes, key=lambda node: node["pos"][0])
    starts: list[float] = []
    for node in ordered:
        if not starts or node["pos"][0] - starts[-1] >= COLUMN:
            starts.append(node["pos"][0])
    found = groupby(ordered, key=lambda node: max(one for one in starts if one <= node["pos"][0]))
    return [sorted(column, key=lambda node: node["pos"][1]) for _, column in found]


def stack(column: list[Node], x: float) -> None:
    """Put a column at x, each node at its own height or below the one before it."""
    free = FIRST_ROW
    for node in column:
        if is_above(node):
            node["pos"] = [x, min(node["pos"][1], FIRST_ROW - 2 * GAP - GROUP_TITLE - node["size"][1])]
            continue
        node["pos"] = [x, max(free, math.ceil(node["pos"][1]))]
        free = node["pos"][1] + math.ceil(node["size"][1]) + GAP


def is_above(node: Node) -> bool:
    return node["pos"][1] < 0


def within(node: Node, group: Graph) -> bool:
    (x, y), (left, top, width, height) = node["pos"], group["bounding"]
    return left <= x < left + width and top <= y < top + height


def around(boxes: list[Box]) -> list[float]:
    """x, y, width and height of a group that holds these boxes."""
    left, top = min(one[0] for one in boxes), min(one[1] for one in boxes)
    right, bottom = max(one[2] for one in boxes), max(one[3] for one in boxes)
    return [left - MARGIN, top - GROUP_TITLE, right - left + 2 * MARGIN, bottom - top + GROUP_TITLE + MARGIN]


def main() -> None:
    for path in sorted(FOLDER.glob("*.json")):
        graph = json.loads(path.read_text("utf8"))
        arrange(graph)
        path.write_text(json.dumps(graph, indent=1, ensure_ascii=False) + "\n", "utf8")


if __name__ == "__main__":
    main()
