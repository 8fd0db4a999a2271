"""Write the miniature's report as tables into the README and its model card.

python docs/write_tables.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EMBEDDED = ROOT / "unitalk_core" / "weights" / "embedded"
PAGES = {ROOT / "README.md": True, EMBEDDED / "README.md": False}  # whether it shows the thresholds alone
BETWEEN = re.compile(r"(?<=<!-- report -->\n).*?(?=<!-- end of report -->)", re.DOTALL)
HEAD = (
    "| measure | value | 95 % interval | chance | ceiling | threshold | |",
    "|---|---|---|---|---|---|---|",
)
VERDICTS = {None: "", True: "yes", False: "**missed**"}


def filled(page: str, report: dict[str, dict[str, Any]], thresholds_alone: bool) -> str:
    """The page with the report between its two marks; ValueError for a page without them."""
    chosen = {k: one for k, one in report.items() if one["passed"] is not None or not thresholds_alone}
    lines = [*HEAD, *(row(name, one) for name, one in chosen.items())]
    page, count = BETWEEN.subn("\n".join(lines) + "\n", page)
    if count != 1:
        raise ValueError(
            "a page needs `<!-- report -->` and `<!-- end of report -->` once, on lines of their own"
        )
    return page


def row(name: str, one: dict[str, Any]) -> str:
    between = f"{number(one['low'])} – {number(one['high'])}"
    numbers = (number(one[column]) for column in ("baseline", "ceiling", "threshold"))
    return f"| {' | '.join([name, number(one['value']), between, *numbers, VERDICTS[one['passed']]])} |"


def number(value: float | None) -> str:
    """Three digits behind the point, or one where the number is large."""
    return "" if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def main() -> None:
    report = json.loads((EMBEDDED / "report.json").read_text("utf8"))
    for path, thresholds_alone in PAGES.items():
        path.write_text(filled(path.read_text("utf8"), report, thresholds_alone), "utf8")


if __name__ == "__main__":
    main()
