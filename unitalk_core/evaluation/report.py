"""Measure a model on held-out synthetic clips: words, sync, voice, face, each beside chance and the truth.

- text: the model gets the sentence, the scene and the sound in words -> words, sync, the face;
- couple_off: the same with its two streams not looking at each other -> sync that the text alone gives;
- given: it gets a voice and a first frame too -> pitch and timbre of that voice, identity of that face;
- dub: it gets the true picture and makes the sound -> words, sync;
- drive: it gets the true sound and makes the picture -> sync;
- codec: the true clip through the model's own VAEs and vocoder: what a perfect sampler would reach;
- continue: it goes on where a clip ends.

Each text has two takes, of which one is the other's baseline: same words, voice and face, another timing. Of
four texts in a row two have words, and two have voices, that training never had.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import torch

from ..av import AV, Clip
from ..data.synthetic import FPS, SAMPLE_RATE, SyntheticClip
from ..pipeline import Bundle, Request, decode, generate
from ..workers import workers
from . import words
from .held_out import TAKES, Result, draw_held_out
from .judges import Row, Rows, face_of, picture_of, scene_of, sync_of, voice_of, words_of
from .measures import Measure, Threshold, columns, mean, measure

Make = Callable[[Bundle, Request], Clip]
OnClip = Callable[[int, int], None]

LEAST = 8  # one text of each kind
SHOWN = 8  # clips for a page of pictures
JUDGES = {  # task -> what its clips are asked
    "text": (words_of, sync_of, scene_of),
    "couple_off": (sync_of,),
    "given": (voice_of, face_of),
    "dub": (words_of, sync_of),
    "drive": (sync_of,),
    "codec": (words_of, sync_of, voice_of, face_of, picture_of),
}
TASKS = (*JUDGES, "continue")
UNNAMED = ("text", "given")  # what they measure has no task's name in front
THRESHOLDS = {
    "words.seen": Threshold(limit=0.85),
    "words.unseen": Threshold(limit=0.75),
    "sync.r": Threshold(limit=0.45, margin=0.20),
    "sync.lag_within_2": Threshold(limit=0.85),
    "sync.own_wins": Threshold(limit=0.85),
    "sync.lag_control": Threshold(limit=0.60),
    "couple_off.sync.own_wins": Threshold(limit=0.50, inside=True),
    "couple_off.sync.lag_control": Threshold(limit=0.10, smaller_is_better=True),
    "voice.f0_cents": Threshold(limit=120.0, factor=1 / 3, smaller_is_better=True),
    "voice.f0_cents_unseen": Threshold(limit=120.0, factor=1 / 3, smaller_is_better=True),
    "voice.timbre": Threshold(limit=0.85),
    "voice.timbre_unseen": Threshold(limit=0.85),
    "face.identity": Threshold(limit=0.95),
    "face.first_frame_db": Threshold(limit=27.0),
    "dub.sync.r": Threshold(limit=-0.08, of="sync.r"),
    "dub.sync.own_wins": Threshold(limit=0.75),
    "drive.sync.own_wins": Threshold(limit=0.85),
    "codec.video_db": Threshold(limit=31.0),
    "speed.seconds_a_clip": Threshold(limit=10.0, smaller_is_better=True),
}
BASELINES = {  # measures whose chance is another one's value
    "sync.own_wins": "couple_off.sync.own_wins",
    "sync.lag_control": "couple_off.sync.lag_control",
}
CEILINGS = {"face.first_frame_db": "codec.face.first_frame_db"}


def evaluate(
    bundle: Bundle,
    clips: int,
    seed: int = 0,
    on_clip: OnClip | None = None,
    shown: list[Result] | None = None,
    *,
    tasks: Sequence[str] = TASKS,
    make: Make = generate,
    processes: int = 1,
) -> dict[str, dict[str, Any]]:
    """Name of a measure -> value, low, high (95 %), baseline, ceiling, threshold, passed.

    clips: two of each text, made in each task; on_clip(done, of) counts them all. `shown` is filled with the
    first few that were made with the true voice and first frame, for a page of pictures. processes: that make
    clips; the result does not depend on it. ValueError for fewer
    than 8 clips, an odd number, an unknown task, or a model that does not make the miniature's format;
    ModuleNotFoundError without pocketsphinx or espeak-ng.
    """
    check(bundle, clips, tasks)
    count = on_clip or (lambda *_: None)
    truths = draw_held_out(seed, clips // TAKES, TAKES)
    ceiling = [Result(truth.clip, truth) for truth in truths]
    chosen = [task for task in JUDGES if task in tasks]
    rows: Rows = {}
    total = len(chosen) * clips
    with workers(partial(clip_for, bundle, make), processes) as spread:
        made = spread([one for task in chosen for one in asked_of(task, truths, seed)])
        for number, task in enumerate(chosen):  # judged while the clips of the next one are made
            results = []
            for i, result in enumerate(map(Result, islice(made, clips), truths), 1):
                results.append(result)
                count(number * clips + i, total)
            rows |= judged(task, results, ceiling)
            if task == "given" and shown is not None:
                shown += results[::TAKES][:SHOWN]
    if "text" in chosen:
        rows["speed.seconds_a_clip"] = [Row(seconds_a_clip(bundle, truths, seed, make))]
    measures = measured(rows)
    if "continue" in tasks:
        from .continuation import continuation

        measures |= continuation(
            bundle, truths[::TAKES], seed, lambda done, of: count(total + done, total + of), processes
        )
    return {name: one.to_json() for name, one in measures.items()}


def check(bundle: Bundle, clips: int, tasks: Sequence[str]) -> None:
    """What evaluate refuses, before anything is drawn."""
    if clips < LEAST:
        raise ValueError(f"an evaluation needs at least {LEAST} clips, got {clips}")
    if clips % TAKES:
        raise ValueError(
            f"an evaluation takes two clips of each text, got {clips}; use {clips - 1} or {clips + 1}"
        )
    if unknown := [task for task in tasks if task not in TASKS]:
        raise ValueError(f"tasks are {', '.join(TASKS)}, got {', '.join(unknown)}")
    form = bundle.config.format
    if (form.fps, form.sample_rate, bundle.config.markup) != (FPS, SAMPLE_RATE, "phonemes"):
        raise ValueError(
            f"the held-out clips have {FPS} fps, {SAMPLE_RATE} Hz and phonemes; this model makes "
            f"{float(form.fps):g} fps, {form.sample_rate} Hz and reads {bundle.config.markup}"
        )
    words.check_installed()


# --- clips -----------------------------------------------------------------------------------------------


def asked_of(task: str, truths: Sequence[SyntheticClip], seed: int) -> list[Request | SyntheticClip]:
    """What each truth is made again from. Both takes are asked for with the seconds of the first."""
    if task == "codec":
        return list(truths)
    seconds = [truths[i - i % TAKES].seconds for i in range(len(truths))]
    return [request(task, truth, seed + i, seconds[i]) for i, truth in enumerate(truths)]


def clip_for(bundle: Bundle, make: Make, asked: Request | SyntheticClip) -> Clip:
    """What the model makes of a request, and its codecs of a true clip."""
    return recoded(bundle, asked) if isinstance(asked, SyntheticClip) else make(bundle, asked)


def request(task: str, truth: SyntheticClip, seed: int, seconds: float) -> Request:
    """What the model is asked for: the words of a held-out clip, and what of the clip it is given."""
    given = {
        "text": {"seconds": seconds},
        "couple_off": {"seconds": seconds, "couple": (False, False)},
        "given": {"seconds": seconds, "voice": truth.reference, "image": truth.clip.frames[0]},
        "dub": {"keep_video": truth.clip.frames},
        "drive": {"keep_audio": truth.waveform},
    }
    return Request(say=truth.say, scene=truth.scene, sound=truth.sound, seed=seed, **given[task])


@torch.no_grad()
def recoded(bundle: Bundle, truth: SyntheticClip) -> Clip:
    """The true clip through the codecs: encoded and decoded again."""
    frames = len(truth.mouth)
    pixels = truth.clip.frames.permute(3, 0, 1, 2)[None] * 2 - 1
    sound = truth.waveform[None, : bundle.config.format.samples(frames)]
    latents = AV(
        bundle.video_vae.encode(pixels.to(bundle.device)),
        bundle.audio_codec.encode(sound.to(bundle.device)),
    )
    return decode(bundle, latents, frames)


def seconds_a_clip(bundle: Bundle, truths: Sequence[SyntheticClip], seed: int, make: Make) -> float:
    """How long one core takes for a clip of the mean length."""
    asked = request("text", truths[0], seed, mean([truth.seconds for truth in truths]))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        start = time.perf_counter()
        make(bundle, asked)
        return time.perf_counter() - start
    finally:
        torch.set_num_threads(threads)


# --- measures --------------------------------------------------------------------------------------------


def judged(task: str, results: Sequence[Result], ceiling: Sequence[Result]) -> Rows:
    """Rows of a task's measures, under the names that they have in the report."""
    prefix = "" if task in UNNAMED else f"{task}."
    found = [judge(results, ceiling) for judge in JUDGES[task]]
    return {prefix + name: rows for part in found for name, rows in part.items()}


def measured(rows: Rows) -> dict[str, Measure]:
    """Rows of all tasks, each beside what it is compared with."""
    measures = {}
    for name, part in rows.items():
        value, baseline, ceiling = columns(over_texts(part))
        baseline = values(rows, BASELINES.get(name)) or baseline
        ceiling = values(rows, CEILINGS.get(name)) or ceiling
        baseline, ceiling = (None if one is None or None in one else one for one in (baseline, ceiling))
        measures[name] = measure(value, baseline, ceiling, threshold(name, rows))
    return measures


def over_texts(rows: Sequence[Row]) -> list[Row]:
    """The takes of a text as one: they are alike, and the interval is over texts."""
    texts = [rows[i : i + TAKES] for i in range(0, len(rows), TAKES)]
    return [Row(*(None if None in takes else mean(takes) for takes in columns(text))) for text in texts]


def values(rows: Rows, name: str | None) -> list[float] | None:
    return [row.value for row in rows[name]] if name in rows else None


def threshold(name: str, rows: Rows) -> Threshold | None:
    """Of a measure; None too where it counts from a measure that is not there."""
    one = THRESHOLDS.get(name)
    if one is None or one.of is None:
        return one
    other = values(rows, one.of)
    return other and replace(one, limit=one.limit + mean(other))
