"""The real frontend in Chromium: a workflow file is dropped on the canvas, Run is pressed, the clip plays.

Needs Chromium, node and the npm package playwright-core; PW_DIR names the folder whose node_modules holds it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.rules.node_table import ROOT
from unitalk_core.data.synthetic_folder import write_clips

SCRIPT = Path(__file__).with_name("browser.mjs")
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")


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


@pytest.fixture(scope="module")
def browser() -> dict[str, str]:
    """What the script needs, by environment variable."""
    found = {
        "node": shutil.which("node"),
        "CHROMIUM": next(filter(None, map(shutil.which, CHROMIUM)), None),
        "PW_DIR": playwright(),
    }
    if missing := [name for name, value in found.items() if value is None]:
        names = {"node": "node", "CHROMIUM": "Chromium", "PW_DIR": "the npm package playwright-core (PW_DIR)"}
        pytest.skip(f"the browser test needs {', '.join(names[name] for name in missing)}")
    return {name: str(value) for name, value in found.items()}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["text_to_talking_clip", "train_a_character"])
def test_a_dropped_workflow_runs_in_the_frontend(server, browser, tmp_path, name):
    graph = json.loads((ROOT / "workflows" / f"{name}.json").read_text("utf8"))
    api = json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text("utf8"))
    if name == "train_a_character":
        write_clips(server.base / "input" / "unitalk_clips", 2, 0)
        shorten(graph, api)
    file = tmp_path / f"{name}.json"
    file.write_text(json.dumps(graph), "utf8")
    done = subprocess.run(
        [browser["node"], str(SCRIPT), server.url, str(file), str(tmp_path)],
        env=os.environ | browser, capture_output=True, text=True, timeout=1100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    seen = json.loads((tmp_path / "seen.json").read_text("utf8"))
    notes = [node for node in graph["nodes"] if node["type"] == "MarkdownNote"]
    assert seen["missing"] == []
    assert seen["nodes"] == len(graph["nodes"])
    assert seen["ended"] == "execution_success"
    assert seen["previews"] > 0
    assert len(api) == len(graph["nodes"]) - len(notes)
    assert seen["prompt"] == {
        key: {"class_type": node["class_type"], "inputs": node["inputs"]} for key, node in api.items()
    }


def shorten(graph: dict, api: dict) -> None:
    """Let the training take a few steps, in both forms of the graph."""
    canvas = next(node for node in graph["nodes"] if node["type"] == "UniTalkTrainLoRA")
    names = [one["name"] for one in canvas["inputs"] if "widget" in one]
    for name, value in {"steps": 4, "settings": "validation.every=2\nvalidation.steps=2"}.items():
        canvas["widgets_values"][names.index(name)] = value
        api[str(canvas["id"])]["inputs"][name] = value
