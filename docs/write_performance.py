"""`python docs/write_performance.py`: writes the results of the speed benchmarks into docs/performance.md."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
WAYS = (
    "host",
    "ours",
    "ours, text read anew",
    "ours in the nodes",
    "host with PyTorch's attention",
)
GPU = ("cuda, 704x704, 121 frames, 30 x 3072", "cuda, 704x1280, 121 frames, 30 x 3072")
VERDICTS = {None: "", True: "yes", False: "**missed**"}


def host_table(results: dict[str, Any]) -> list[str]:
    """Seconds of each way, and the ratio of the first two."""
    head = f"| case | {' | '.join(WAYS)} | host / ours | target | met | relative error |"
    rows = [head, "|---" * (head.count("|") - 1) + "|"]
    for name, one in results.items():
        times = (f"{one['seconds'][way]:.2f}" if way in one["seconds"] else "" for way in WAYS)
        low, high = one["ratio_between"]
        target = "" if one["target"] is None else f"{one['target']:g}"
        cells = (*times, f"{one['ratio']:.2f} ({low:.2f} to {high:.2f})", target, VERDICTS[one["met"]])
        rows.append(f"| {' | '.join((name, *cells))} | {one['relative_error']['ours']:.0e} |")
    return rows


def step_table(results: dict[str, Any]) -> list[str]:
    """Seconds, share of the matmul peak and memory of each way; what was not measured is named."""
    rows = [
        "| device, height x width, frames, blocks x width | way | s | TFLOP | share of the peak | MiB |",
        "|---|---|---|---|---|---|",
    ]
    for key in (*results, *(key for key in GPU if key not in results)):
        if key not in results:
            rows.append(f"| {key} | | not measured | | | |")
            continue
        for way, one in results[key]["ways"].items():
            memory = "" if one["memory_mib"] is None else f"{one['memory_mib']:,}"
            cells = (key, way, f"{one['seconds']:.2f}", f"{one['tflop']:.2f}", f"{one['share']:.0%}", memory)
            rows.append(f"| {' | '.join(cells)} |")
    return rows


TABLES = {"vs_host": host_table, "step": step_table}


def filled(page: str, name: str, rows: list[str]) -> str:
    """The page with a table between its two marks; ValueError for a page without them."""
    between = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=<!-- end of {name} -->)", re.DOTALL)
    page, count = between.subn(lambda _: "\n".join(rows) + "\n", page)
    if count != 1:
        raise ValueError(f"the page needs `<!-- {name} -->` and `<!-- end of {name} -->` once")
    return page


def main() -> None:
    page = PAGE.read_text("utf8")
    for name, table in TABLES.items():
        page = filled(page, name, table(json.loads((RESULTS / f"{name}.json").read_text("utf8"))))
    PAGE.write_text(page, "utf8")


if __name__ == "__main__":
    main()
