"""Chromium and playwright-core on this machine, and the scripts that drive the real frontend with them.

Needs Chromium, node and the npm package playwright-core; PW_DIR names the folder whose node_modules holds it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.rules.node_table import ROOT

HERE = Path(__file__).parent
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")
NAMES = {"node": "node", "CHROMIUM": "Chromium", "PW_DIR": "the npm package playwright-core (PW_DIR)"}


def playwright() -> Path | None:
    """The folder whose node_modules holds playwright-core."""
    told = [Path(os.environ["PW_DIR"])] if os.environ.get("PW_DIR") else []
    npm = shutil.which("npm")
    root = (
        subprocess.run([npm, "root", "-g"], capture_output=True, text=True, check=False).stdout.strip()
        if npm
        else ""
    )
    places = [*told, ROOT, Path.home(), Path.home() / "pw", *([Path(root).parent] if root else [])]
    return next((one for one in places if (one / "node_modules" / "playwright-core").is_dir()), None)


def find_browser() -> dict[str, str]:
    """What the scripts need, by environment variable; FileNotFoundError names what is not here."""
    found = {
        "node": shutil.which("node"),
        "CHROMIUM": next(filter(None, map(shutil.which, CHROMIUM)), None),
        "PW_DIR": playwright(),
    }
    if missing := [NAMES[name] for name, value in found.items() if value is None]:
        raise FileNotFoundError(f"the browser needs {', '.join(missing)}")
    return {name: str(value) for name, value in found.items()}


def drive(script: str, *args: str | Path, seconds: float = 1100) -> None:
    """Run a script of this folder; RuntimeError with what it printed when it fails."""
    browser = find_browser()
    done = subprocess.run(
        [browser["node"], str(HERE / script), *map(str, args)],
        env=os.environ | browser, capture_output=True, text=True, timeout=seconds, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(
            f"{script} ended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        )
