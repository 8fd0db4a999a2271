"""The real frontend in Chromium: a workflow file is dropped on the canvas, Run is pressed, the clip plays.

tests/host/run_workflows.py does the same with every workflow, in two versions of the host;
tests/host/help_pages.py opens the help of every node.
"""

from __future__ import annotations

import json

import pytest

from tests.host.chromium import drive, find_browser
from tests.host.help_pages import unread_help
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


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_sound_is_played_in_the_sampling_node_unless_the_user_does_not_want_it(server, tmp_path):
    file = tmp_path / "clip.json"
    file.write_text(json.dumps(read("text_to_talking_clip", quick=True)[0]), "utf8")
    drive("sound.mjs", server.url, tmp_path, file)
    seen = json.loads((tmp_path / "sound.json").read_text("utf8"))
    assert seen["errors"] == []
    assert {seen[name]["how"] for name in ("classic", "vue", "off")} == {"execution_success"}
    for name in ("classic", "vue"):
        (player,) = seen[name]["players"]
        assert seen[name]["widgets"] == ["UniTalkJointSampler"]
        assert player["controls"] and player["duration"] > 1 and min(player["box"]) > 20
    assert seen["off"]["players"] == seen["off"]["widgets"] == []
    assert seen["after"] == seen["before"], "the player is saved with the workflow"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_help_of_a_node_opens_with_its_picture(server, tmp_path):
    assert unread_help(server, tmp_path, ["UniTalkJointSampler", "UniTalkPickBest", "UniTalkTrainLoRA"]) == {}
