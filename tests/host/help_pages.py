"""The help of the nodes as the real frontend shows it: opened by help.mjs, and compared with the pages.

python -m tests.host.help_pages OUT opens all of them in the ComfyUI that the tests find.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from pathlib import Path

from tests.host.chromium import drive
from tests.host.conftest import PACK, host_at, places
from tests.host.serving import Server
from tests.rules.node_table import ROOT, read_table


def unread_help(server: Server, out: Path, names: list[str]) -> dict[str, list[str]]:
    """Node -> what of its help page the frontend does not show as it should; without fault it is left out."""
    drive("help.mjs", server.url, out, *names)
    seen = json.loads((out / "help.json").read_text("utf8"))
    faults = {name: faults_of(name, seen[name]) for name in names}
    return {name: some for name, some in faults.items() if some}


def faults_of(name: str, seen: dict) -> list[str]:
    """seen: what help.mjs found in the panel: headings, code words, pictures with their width, all text."""
    page = (ROOT / "web" / "docs" / f"{name}.md").read_text("utf8")
    titles = re.findall(r"^# (.+)", page, re.MULTILINE)
    sections = re.findall(r"^## (.+)", page, re.MULTILINE)
    wrong = {
        seen.get("error", ""): "error" in seen,
        f"titles {seen['titles']}": seen["titles"] != titles,
        f"sections {seen['sections']}": seen["sections"] != sections,
        f"pictures {seen['images']}": not one_picture(name, seen["images"]),
        "code is shown otherwise": seen["codes"] != re.findall(r"`([^`]+)`", page),
        "markdown is shown as it is": bool(re.search(r"\*\*|!\[|\]\(", seen["text"])),
    }
    return [text for text, is_wrong in wrong.items() if is_wrong]


def one_picture(name: str, images: list[list]) -> bool:
    """Whether the node's own picture is there, drawn and not empty."""
    return len(images) == 1 and images[0][0].endswith(f"/{name}.png") and min(images[0][1:]) > 50


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    out = Path(sys.argv[1]).resolve()
    out.mkdir(parents=True, exist_ok=True)
    host = host_at(next(place for place in places() if (place / "comfyui_version.py").is_file()))
    with Server.start(host.python, host.path, PACK, out / "host", {}) as server:
        names = sorted(read_table())
        faults = unread_help(server, out, names)
    logging.info("%d help pages, not shown as they should be: %s", len(names), faults or "none")


if __name__ == "__main__":
    main()
