"""Guidance and the step cache from the command line to the clip: passes are counted, nonsense is refused."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

import pytest
import torch

from unitalk_core.__main__ import main
from unitalk_core.av import AV
from unitalk_core.cli.guidance import add_guidance, guidance_from
from unitalk_core.diffusion.cache import StepCache
from unitalk_core.diffusion.guidance import Guidance, Term, Without
from unitalk_core.pipeline import Request, Trace, check_request, generate
from unitalk_core.request import BY_TASK

ASK = Request(say="good morning", seconds=0.36, steps=4)  # 9 frames
COUPLING = Guidance((Term(Without(coupling=True), AV(2.0, 1.0), 0.0, 0.5),))


def options(*words: str) -> dict:
    parser = argparse.ArgumentParser(argument_default=argparse.SUPPRESS)
    add_guidance(parser)
    return guidance_from(parser.parse_args(words))


def passes(bundle, **changes) -> int:
    trace = Trace()
    generate(bundle, replace(ASK, sampler="euler", **changes), trace=trace)
    return trace.passes


def test_options_become_terms_with_a_strength_for_each_stream_and_a_range():
    given = options(
        "--voice-cfg", "2", "--couple-cfg", "3,1.5@0-0.6", "--skip-cfg", "1.5", "--skip-blocks", "2,3"
    )
    assert given["guide"].terms == (
        Term(Without(voice=True), AV(2.0, 2.0)),
        Term(Without(coupling=True), AV(3.0, 1.5), 0.0, 0.6),
        Term(Without(blocks=(2, 3)), AV(1.5, 1.5)),
    )
    shaped = options("--apg", "0.5", "--apg-limit", "0.3", "--rescale", "0.2", "--cfg-range", "0.1-0.9")
    assert shaped == {"cfg_range": (0.1, 0.9), "guide": Guidance((), 0.5, 0.3, 0.2)}
    assert options("--cache", "0.1,0.05@0.2-0.8") == {"cache": StepCache(AV(0.1, 0.05), 0.2, 0.8)}
    assert options() == {}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--voice-cfg", "much"], "--voice-cfg takes SCALE"),
        (["--couple-cfg", "2@late"], "--couple-cfg takes START-END"),
        (["--couple-cfg", "2@0.6-0.2"], "start before it ends"),
        (["--image-cfg", "-2"], "must be from 0 to 100, got -2"),
        (["--skip-cfg", "2"], "go together"),
        (["--skip-cfg", "2", "--skip-blocks", "all"], "takes whole numbers"),
        (["--cache", "3"], "threshold of a step cache"),
        (["--rescale", "3"], "rescale must be from 0 to 1"),
    ],
)
def test_options_that_cannot_be_are_named(words: list[str], says: str):
    with pytest.raises(ValueError, match=says):
        options(*(f"{words[0]}={words[1]}", *words[2:]))


def test_passes_are_run_where_they_count_and_nowhere_else(tiny_bundle):
    assert passes(tiny_bundle, video_cfg=1.0, audio_cfg=1.0) == 4
    assert passes(tiny_bundle) == 8
    assert passes(tiny_bundle, cfg_range=(0.0, 0.5)) == 6  # shift 3: half way is sigma 0.75, after two steps
    assert passes(tiny_bundle, guide=COUPLING) == 10
    assert passes(tiny_bundle, guide=Guidance(COUPLING.terms * 2)) == 10  # the same pass twice is run once


def test_a_voice_and_a_picture_to_dub_guide_the_sound_by_themselves():
    def by_task(**changes) -> list[Term]:
        return [term for term in replace(ASK, **changes).guidance.terms[1:] if term.counts]

    voice, picture = {"voice": torch.zeros(16000)}, {"keep_video": torch.zeros(9, 64, 64, 3)}
    assert by_task() == by_task(keep_audio=torch.zeros(8000)) == []
    assert by_task(**voice) == [Term(Without(voice=True), BY_TASK)]
    assert by_task(**picture) == [Term(Without(coupling=True), BY_TASK)]
    assert len(by_task(**voice, **picture)) == 2
    assert by_task(**picture, couple=(True, False)) == []
    assert BY_TASK.video == 1  # the picture is guided by the words alone


def test_what_is_asked_for_takes_the_place_of_what_the_task_asks_for():
    asked = Term(Without(voice=True), AV(1.0, 4.0))
    off = Term(Without(voice=True), AV(1.0, 1.0))
    for term in (asked, off):
        one = replace(ASK, voice=torch.zeros(16000), guide=Guidance((term,)))
        assert one.guidance.terms[1:] == (term,)


def test_guidance_that_changes_nothing_gives_the_same_bits(tiny_bundle):
    def latents(**changes) -> AV:
        trace = Trace()
        generate(tiny_bundle, replace(ASK, **changes), trace=trace)
        return trace.latents

    plain = latents()
    idle = Guidance((Term(Without(coupling=True), AV(1.0, 1.0)),))
    for other in (latents(guide=idle), latents(cache=StepCache(AV(0.0, 0.0)))):
        assert torch.equal(plain.video, other.video) and torch.equal(plain.audio, other.audio)
    assert not torch.equal(plain.video, latents(guide=COUPLING).video)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"guide": Guidance((Term(Without(voice=True), AV(1.0, 2.0)),))}, "by the voice needs a voice"),
        ({"guide": Guidance((Term(Without(image=True), AV(2.0, 1.0)),))}, "needs a picture that is kept"),
        ({"guide": COUPLING, "picture": False}, "needs a picture and a sound"),
        (
            {
                "guide": COUPLING,
                "couple": (True, False),
                "keep_video": torch.zeros(9, 64, 64, 3),
                "seconds": None,
            },
            "needs a picture and a sound",
        ),
        ({"guide": Guidance((Term(Without(blocks=(6,)), AV(2.0, 1.0)),))}, "blocks of this model are 0 to 5"),
        ({"cfg_range": (0.9, 0.1)}, "start before it ends"),
    ],
)
def test_guidance_by_what_a_clip_does_not_have_is_refused_before_work_starts(tiny_bundle, change, says):
    with pytest.raises(ValueError, match=says):
        check_request(tiny_bundle.config, replace(ASK, **change))


def test_the_report_says_what_guided_and_what_it_cost(tmp_path, embedded, monkeypatch, capsys):
    monkeypatch.setenv("UNITALK_EMBEDDED", str(embedded))
    out, report = tmp_path / "clip.mp4", tmp_path / "report.json"
    form = ["--seconds", "0.36", "--steps", "4", "--sampler", "euler"]
    files = ["--out", str(out), "--report", str(report)]
    guide = ["--couple-cfg", "2@0-0.5", "--cache", "0,0.5@0-1"]
    assert main(["sample", "--say", "good morning", *form, *guide, *files]) == 0
    made = json.loads(report.read_text())
    assert made["request"]["guide"] == "the full pass, without text, without coupling (0% to 50%)"
    assert made["skipped_steps"] == 0 and made["passes"] == 4 + 4 + 2
    assert made["request"]["cache"]["threshold"] == {"video": 0.0, "audio": 0.5}
    assert "10 passes, 0 steps skipped" in capsys.readouterr().out
