"""The real frontend in Chromium: a workflow file is dropped on the canvas, Run is pressed, the clip plays.

tests/host/run_workflows.py does the same with every workflow, in two versions of the host.
"""

from __future__ import annotations

import json

import pytest

from tests.host.chromium import drive, find_browser
from tests.host.shipped import problems, read
from unitalk_core.data.synthetic_folder import write_clips


@pytest.fixture(scope="module", autouse=True)
def browser() -> None:
    try:
        find_browser()
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["text_to_talking_clip", "train_a_character"])
def test_a_dropped_workflow_runs_in_the_frontend(server, tmp_path, name):
    canvas, api = read(name, quick=True)
    if name == "train_a_character":
        write_clips(server.base / "input" / "unitalk_clips", 2, 0)
    file = tmp_path / f"{name}.json"
    file.write_text(json.dumps(canvas), "utf8")
    (tmp_path / "seen").mkdir()
    drive("browser.mjs", server.url, tmp_path / "seen", file)
    seen = json.loads((tmp_path / "seen" / file.name).read_text("utf8"))
    assert problems(canvas, api, seen) == []
    assert seen["ended"] == "execution_success"
    assert seen["previews"] > 0
