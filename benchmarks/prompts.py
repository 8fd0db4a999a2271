"""Does the memory of a running ComfyUI grow from prompt to prompt? Its resident size after each of many.

python -m benchmarks.prompts [--prompts 50] [--host ~/ComfyUI] [--python ~/ComfyUI/venv/bin/python]

Each prompt makes a clip of 0.6 s in two steps, with seeds of its own, so that nothing comes from the host's
cache but what it loaded; the clip is decoded, joined and saved.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from tests.host.serving import Server

ROOT = Path(__file__).resolve().parents[1]
GRAPH = ROOT / "workflows" / "api" / "text_to_talking_clip.json"
SETTLED = 10  # prompts after which everything is loaded


def graph(seed: int) -> dict[str, Any]:
    changes = {"steps": 2, "seconds": 0.6, "video_seed": seed, "audio_seed": seed}
    nodes = json.loads(GRAPH.read_text("utf8"))
    for node in nodes.values():
        node["inputs"] |= {name: value for name, value in changes.items() if name in node["inputs"]}
    return nodes


def sizes(server: Server, prompts: int) -> Iterator[float]:
    """MiB of the server's process after each prompt; RuntimeError if one fails."""
    process = psutil.Process(server.process.pid)
    queued = [server.queue(graph(seed)) for seed in range(prompts)]
    for prompt in queued:
        status = server.wait_for(prompt)["status"]
        if status["status_str"] != "success":
            raise RuntimeError(f"a prompt ended with {status['messages'][-1]}")
        yield process.memory_info().rss / 2**20


def growth(found: list[float]) -> float:
    """MiB a prompt, by least squares over those after everything was loaded."""
    later = found[SETTLED:]
    middle, mean = (len(later) - 1) / 2, sum(later) / len(later)
    over = sum((i - middle) * (one - mean) for i, one in enumerate(later))
    return over / sum((i - middle) ** 2 for i in range(len(later)))


def main() -> None:
    home = Path.home() / "ComfyUI"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=50, help=f"more than {SETTLED + 1}")
    parser.add_argument("--host", type=Path, default=home, help="the folder of a ComfyUI")
    parser.add_argument("--python", type=Path, default=home / "venv/bin/python", help="its Python")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as base,
        Server.start(given.python, given.host, ROOT, Path(base), {"OMP_NUM_THREADS": "1"}) as server,
    ):
        found = []
        for size in sizes(server, given.prompts):
            found.append(size)
            print(f"after {len(found)} prompts {size:.0f} MiB", flush=True)
    print(f"{growth(found):+.2f} MiB a prompt after the first {SETTLED}; at most {max(found):.0f} MiB")


if __name__ == "__main__":
    main()
