"""What made a clip, read from the graph that runs (ComfyUI's API format): models, seeds and words."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

Graph = Mapping[str, Mapping[str, Any]]

MODELS = ("model_name", "second_name", "unet_name", "ckpt_name", "lora_name")
EMBEDDED = "UniTalkLoadEmbedded"
SEEDS = ("video_seed", "audio_seed", "noise_seed", "seed")
WORDS = (("scene", "speech", "sound"), ("picture", "sound"), ("text",))  # of one text node


def above(graph: Graph, node: str) -> Iterator[Mapping[str, Any]]:
    """A node and all that it is made from, each once, the nearest first."""
    waiting, seen = deque([node]), set()
    while waiting:
        name = waiting.popleft()
        if name in graph and name not in seen:
            seen.add(name)
            yield graph[name]
            waiting += [one[0] for one in graph[name]["inputs"].values() if isinstance(one, list)]


def literal(graph: Graph, value: Any) -> Any:
    """What an input gets, if that stands in the graph: its own value, or that of a primitive linked to it."""
    if not isinstance(value, list):
        return value
    return graph.get(value[0], {}).get("inputs", {}).get("value")


def sources(graph: Graph, node: str) -> tuple[list[str], dict[str, int], list[tuple[str, ...]]]:
    """(models and LoRAs, seeds by name, texts by field) above a node; what is computed is left out.

    Where several nodes have a seed of one name, as in a graph that goes on from a clip, the nearest counts.
    """
    models: list[str] = []
    seeds: dict[str, int] = {}
    words: list[tuple[str, ...]] = []
    for one in above(graph, node):
        given = {name: literal(graph, value) for name, value in one["inputs"].items()}
        models += ["tiny"] * (one["class_type"] == EMBEDDED)
        models += [given[name] for name in MODELS if given.get(name, "none") not in ("none", None)]
        seeds = {name: given[name] for name in SEEDS if isinstance(given.get(name), int)} | seeds
        fields = next((names for names in WORDS if all(isinstance(given.get(n), str) for n in names)), ())
        words += [tuple(given[name] for name in fields)] * bool(fields)
    return list(dict.fromkeys(models)), seeds, words
