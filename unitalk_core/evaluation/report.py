"""Measure a model on held-out synthetic clips: words, sync, voice and face, each beside chance and the truth.

- text: the model gets the sentence, the scene and the sound in words -> words, sync;
- given: it gets a voice and a first frame too -> pitch and timbre of that voice, identity of that face;
- dub: it gets the true picture and makes the sound -> words, sync;
- drive: it gets the true sound and makes the picture -> sync;
- codec: the true clip through the model's own VAEs and vocoder: what a perfect sampler would reach.

Of four clips in a row two have words, and two have voices, that training never had.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from operator import not_
from typing import Any

import torch
from torch import Tensor

from ..av import AV, Clip
from ..data.synthetic import FPS, SAMPLE_RATE, SyntheticClip, spoken_words, synthesize_clip
from ..pipeline import Bundle, Request, decode, generate
from . import sync, voice, words
from .measures import Measure, Threshold, measure

Make = Callable[[Bundle, Request], Clip]
OnClip = Callable[[int, int], None]

TASKS = ("text", "given", "dub", "drive", "codec")
LONG_WORD = 2  # syllables that the word judge needs
NO_PITCH = 2400.0  # cents, where no pitch is found
LAG = 2  # frames
THRESHOLDS = {
    "words.seen": Threshold(limit=0.85),
    "words.unseen": Threshold(limit=0.75),
    "sync.r": Threshold(limit=0.45, margin=0.20),
    "sync.lag_within_2": Threshold(limit=0.85),
    "voice.f0_cents": Threshold(limit=120.0, factor=1 / 3, smaller_is_better=True),
    "voice.f0_cents_unseen": Threshold(limit=120.0, factor=1 / 3, smaller_is_better=True),
    "voice.timbre": Threshold(limit=0.85),
    "voice.timbre_unseen": Threshold(limit=0.85),
    "face.identity": Threshold(limit=0.95),
    "face.first_frame_db": Threshold(limit=27.0),
}


@dataclass(frozen=True)
class Result:
    """A clip and the truth it was made for, with the tracks the judges look at."""

    clip: Clip
    truth: SyntheticClip

    @cached_property
    def words(self) -> list[str]:
        return words.split_words(self.truth.say)

    @cached_property
    def waveform(self) -> Tensor:
        return self.clip.waveform.mean(0)

    @cached_property
    def opening(self) -> Tensor:
        return sync.mouth_opening(self.clip.frames)

    @cached_property
    def level(self) -> Tensor:
        frames = round(self.waveform.shape[-1] * self.clip.fps / self.clip.sample_rate)
        return sync.loudness(self.waveform, self.clip.sample_rate, float(self.clip.fps), frames)

    @cached_property
    def pitch(self) -> float:
        return voice.median_pitch(self.waveform, self.clip.sample_rate)

    @cached_property
    def timbre(self) -> Tensor:
        return voice.timbre(self.waveform, self.clip.sample_rate)

    def right_words(self, sound: Result | None = None) -> float:
        """Share of this clip's words that its own sound (or another clip's) says, among 50 choices each."""
        source = sound or self
        grammar = words.choices(self.words, long_words())
        heard = words.recognise(source.waveform, source.clip.sample_rate, grammar, len(self.words))
        return words.accuracy(self.words, heard)


def long_words() -> list[str]:
    """The words of the synthetic clips that the word judge can tell apart."""
    return [word for word in spoken_words() if words.syllables(word) >= LONG_WORD]


def draw_held_out(seed: int, count: int) -> list[SyntheticClip]:
    """Held-out clips of long words only: seen and unseen words in turn, seen and unseen voices two by two."""
    long = set(long_words())
    clips: list[SyntheticClip] = []
    index = 0
    while len(clips) < count:
        kind = len(clips) % 4
        splits = {"words": ("seen", "unseen")[kind % 2], "voices": ("seen", "unseen")[kind // 2]}
        found = synthesize_clip(seed, index, held_out=True, **splits)
        index += 1
        if set(found.say.split()) <= long:
            clips.append(found)
    return clips


def evaluate(
    bundle: Bundle,
    clips: int = 40,
    seed: int = 0,
    on_clip: OnClip | None = None,
    *,
    tasks: Sequence[str] = TASKS,
    make: Make = generate,
) -> dict[str, dict[str, Any]]:
    """Name of a measure -> value, low, high (95 %), baseline, ceiling, threshold, passed; on_clip(done, of).

    ValueError for fewer than 8 clips, an unknown task, or a model that does not make the miniature's format.
    """
    check(bundle, clips, tasks)
    truths = draw_held_out(seed, clips)
    runs: dict[str, list[Result]] = {task: [] for task in TASKS if task in tasks}
    for i, truth in enumerate(truths):
        for task, results in runs.items():
            clip = recoded(bundle, truth) if task == "codec" else make(bundle, request(task, truth, seed + i))
            results.append(Result(clip, truth))
        if on_clip is not None:
            on_clip(i + 1, clips)
    ceiling = [Result(truth.clip, truth) for truth in truths]
    measures: dict[str, Measure] = {}
    if "text" in runs:
        measures |= words_of(runs["text"], ceiling) | sync_of(runs["text"], ceiling)
    if "given" in runs:
        measures |= voice_of(runs["given"], ceiling) | face_of(runs["given"], ceiling)
    for task in ("dub", "drive", "codec"):
        if task in runs:
            found = {} if task == "drive" else words_of(runs[task], ceiling)
            found |= sync_of(runs[task], ceiling)
            measures |= {f"{task}.{name}": one for name, one in found.items()}
    return {name: one.to_json() for name, one in measures.items()}


def check(bundle: Bundle, clips: int, tasks: Sequence[str]) -> None:
    if clips < 8:
        raise ValueError(f"an evaluation needs at least 8 clips, got {clips}")
    if unknown := [task for task in tasks if task not in TASKS]:
        raise ValueError(f"tasks are {', '.join(TASKS)}, got {', '.join(unknown)}")
    form = bundle.config.format
    if (form.fps, form.sample_rate, bundle.config.markup) != (FPS, SAMPLE_RATE, "phonemes"):
        raise ValueError(
            f"the held-out clips have {FPS} fps, {SAMPLE_RATE} Hz and phonemes; this model makes "
            f"{float(form.fps):g} fps, {form.sample_rate} Hz and reads {bundle.config.markup}"
        )


def request(task: str, truth: SyntheticClip, seed: int) -> Request:
    """What the model is asked for: the words of a held-out clip, and what of the clip it is given."""
    frames = truth.frames.float() / 255
    given = {
        "text": {"seconds": truth.seconds},
        "given": {"seconds": truth.seconds, "voice": truth.reference, "image": frames[0]},
        "dub": {"keep_video": frames},
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


def others(results: Sequence[Result], i: int, count: int = 3) -> list[Result]:
    """The next clips in the round: what a clip is shuffled with."""
    return [results[(i + k) % len(results)] for k in range(1, count + 1)]


def words_of(results: Sequence[Result], ceiling: Sequence[Result]) -> dict[str, Measure]:
    """Accuracy for seen and for unseen words, and for all."""
    rows = [
        (own.right_words(), own.right_words(others(results, i, 1)[0]), true.right_words())
        for i, (own, true) in enumerate(zip(results, ceiling, strict=True))
    ]
    splits = {"words.all": rows, "words.seen": rows[0::2], "words.unseen": rows[1::2]}
    return {name: measure(*columns(part), THRESHOLDS.get(name)) for name, part in splits.items()}


def sync_of(results: Sequence[Result], ceiling: Sequence[Result]) -> dict[str, Measure]:
    """Speech-window r of mouth and sound, and the share of clips whose best lag is within two frames."""

    def rows(score: Callable[[Tensor, Tensor], float]) -> list[tuple[float, float, float]]:
        return [
            (
                score(own.opening, own.level),
                sum(score(own.opening, other.level) for other in others(results, i)) / 3,
                score(true.opening, true.level),
            )
            for i, (own, true) in enumerate(zip(results, ceiling, strict=True))
        ]

    parts = {
        "sync.r": rows(sync.sync),
        "sync.lag_within_2": rows(lambda a, b: float(abs(sync.best_lag(a, b)) <= LAG)),
    }
    return {name: measure(*columns(part), THRESHOLDS[name]) for name, part in parts.items()}


def columns(rows: Sequence[tuple[float, ...]]) -> list[list[float]]:
    return [list(column) for column in zip(*rows, strict=True)]


def voice_of(results: Sequence[Result], ceiling: Sequence[Result]) -> dict[str, Measure]:
    """Pitch error to the given voice, and how often its timbre is nearer than another voice's."""
    given = [Result(Clip(None, r.truth.reference[None], r.clip.fps, SAMPLE_RATE), r.truth) for r in results]
    pitch, tone = [], []
    for own, true, heard in zip(results, ceiling, given, strict=True):
        foreign = [one for one in given if one.truth.voice != own.truth.voice]
        shuffled = sum(pitch_error(own, one) for one in foreign) / len(foreign)
        pitch.append((pitch_error(own, heard), shuffled, pitch_error(true, heard)))
        tone.append((nearer(own, heard, foreign), 0.5, nearer(true, heard, foreign)))
    rows = {"voice.f0_cents": pitch, "voice.timbre": tone}
    seen = [i % 4 < 2 for i in range(len(results))]
    rows = {name: list(compress(part, seen)) for name, part in rows.items()} | {
        f"{name}_unseen": list(compress(part, map(not_, seen))) for name, part in rows.items()
    }
    return {name: measure(*columns(part), THRESHOLDS[name]) for name, part in rows.items()}


def pitch_error(a: Result, b: Result) -> float:
    """Cents between two voices' median pitches; `NO_PITCH` where one of them has none."""
    missing = math.isnan(a.pitch) or math.isnan(b.pitch)
    return NO_PITCH if missing else min(voice.cents(a.pitch, b.pitch), NO_PITCH)


def nearer(result: Result, own: Result, foreign: Sequence[Result]) -> float:
    """Share of the foreign voices that are farther in timbre than the own one."""
    distance = voice.timbre_distance(result.timbre, own.timbre)
    return sum(distance < voice.timbre_distance(result.timbre, one.timbre) for one in foreign) / len(foreign)


def face_of(results: Sequence[Result], ceiling: Sequence[Result]) -> dict[str, Measure]:
    """Whether the last frame is nearest to its own given first frame, and how well that one is kept."""
    firsts = torch.stack([result.truth.clip.frames[0] for result in results]).flatten(1)

    def is_own(result: Result, i: int) -> float:
        return float((firsts - result.clip.frames[-1].flatten()).norm(dim=1).argmin() == i)

    identity = [
        (is_own(own, i), 1 / len(results), is_own(true, i))
        for i, (own, true) in enumerate(zip(results, ceiling, strict=True))
    ]
    decibels = [
        float(-10 * (own.clip.frames[0].flatten() - first).square().mean().clamp_min(1e-10).log10())
        for own, first in zip(results, firsts, strict=True)
    ]
    return {
        "face.identity": measure(*columns(identity), THRESHOLDS["face.identity"]),
        "face.first_frame_db": measure(decibels, threshold=THRESHOLDS["face.first_frame_db"]),
    }
