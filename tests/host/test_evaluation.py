"""The nodes that judge, run inside a real ComfyUI by `inside/on_evaluation.py`."""

from __future__ import annotations

import re

import pytest


def test_a_score_says_how_well_and_how_late_the_picture_moves(measured):
    found = measured("judged")
    sync, lag, loudness = found["numbers"]
    assert sync < 0.5
    assert lag == 4
    assert -40 < loudness < -10
    assert found["report"].startswith(f"sync {sync:.2f}, picture 4 frames after the sound, ")


def test_words_are_counted_or_the_report_says_why_nobody_listened(measured):
    found = measured("judged")
    assert found["nobody listened"]
    said = r"\d of 2 words heard$" if found["installed"] else "needs pocketsphinx: run pip install"
    assert re.search(said, found["words"])


def test_a_sound_that_is_too_long_is_judged_in_part_and_the_report_says_so(measured):
    found = measured("judged")
    assert found["longer"].startswith(found["report"])
    assert "= +1600.000 ms: the rest is not judged" in found["longer"]


def test_the_take_in_time_is_picked_and_every_take_has_a_line(measured):
    found = measured("best_take")
    assert found["index"] == 1
    assert found["same"] == [True, True]
    assert found["sync"] > 0.5
    assert [line.split(":")[0] for line in found["report"]] == ["take 0", "take 1", "take 2"]
    assert [line.endswith("<- best") for line in found["report"]] == [False, True, False]
    assert found["alone"] == 0


@pytest.mark.parametrize(
    ("node", "name", "said"),
    [
        ("judged", "no audio", "no audio to judge"),
        ("judged", "two clips", "holds 2 clips"),
        ("judged", "short", "a score needs 12 frames with sound, got 5"),
        ("best_take", "no audio", "no audio to judge"),
        ("best_take", "frames", "119 frames are not 3 takes of one length"),
    ],
)
def test_what_cannot_be_judged_gets_one_sentence(measured, node, name, said):
    found = measured(node)[name]
    assert re.fullmatch(r"ValueError: [^\n]{20,200}", found)
    assert said in found
