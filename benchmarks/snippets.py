"""What does the sound while sampling cost? The same with it and without.

python -m benchmarks.snippets [--turns 5] [--out benchmarks/results/snippets.json]

In turns, with other seeds each time, on the host that the tests find, 20 steps whose latent is saved.
Counted is the time that the server's process really computed, which other processes disturb little.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch

from tests.host.conftest import PACK, host_at, places
from tests.host.serving import Server
from tests.rules.node_table import ROOT
from unitalk_core.cli.sample import write_report

CLIENTS = {"without": False, "with": True}


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of sound while sampling.")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    host = host_at(next(place for place in places() if (place / "comfyui_version.py").is_file()))
    with tempfile.TemporaryDirectory() as base:
        threads = {"OMP_NUM_THREADS": "1"}
        with Server.start(host.python, host.path, PACK, Path(base), threads) as server:
            seconds = measured(server, args.turns)
    medians = {name: median(some) for name, some in seconds.items()}
    found = {
        "machine": f"{platform.system()} {platform.machine()}, torch {torch.__version__}",
        "processor_seconds": seconds,
        "with/without": medians["with"] / medians["without"],
    }
    print(json.dumps(found, indent=1))
    if args.out:
        write_report(args.out, found)


def measured(server: Server, turns: int) -> dict[str, list[float]]:
    """Processor seconds of each run; the first of each is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in CLIENTS}
    for turn in range(turns + 1):
        for name, on in CLIENTS.items():
            server.post("/unitalk/hear", {"client_id": name, "on": on})
            before = computed(server)
            answer = server.post("/prompt", {"prompt": graph(2 * turn + on), "client_id": name})
            server.wait_for(answer["prompt_id"])
            seconds[name] += [computed(server) - before] if turn else []
    return seconds


def computed(server: Server) -> float:
    times = psutil.Process(server.process.pid).cpu_times()
    return times.user + times.system


def graph(seed: int) -> dict[str, Any]:
    """The first workflow as far as its latent, which is saved."""
    nodes = json.loads((ROOT / "workflows" / "api" / "text_to_talking_clip.json").read_text("utf8"))
    sampler = next(key for key, node in nodes.items() if node["class_type"] == "UniTalkJointSampler")
    nodes[sampler]["inputs"] |= {"video_seed": seed, "audio_seed": seed}
    needed = {key: nodes[key] for key in above(nodes, sampler)}
    save = {"latent": [sampler, 0], "filename_prefix": "latents/measured"}
    return needed | {"save": {"class_type": "UniTalkSaveLatent", "inputs": save}}


def above(nodes: dict[str, Any], last: str) -> set[str]:
    """A node and all that it needs."""
    sources = [one[0] for one in nodes[last]["inputs"].values() if isinstance(one, list)]
    return {last}.union(*(above(nodes, one) for one in sources))


if __name__ == "__main__":
    main()
