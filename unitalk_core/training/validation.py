"""Clips with sound along the way, always of the same prompts and seeds, and what the judges say of them.

samples/step-000100-0.mp4 is the first prompt after 100 steps; samples/scores.jsonl has a line for each clip.
Nothing of it touches the training: neither its random state nor the mode of its model.

f frames · h, w rows, columns · n samples
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..av import Clip
from ..evaluation import sync, voice, words
from ..media import fill, read_audio, read_image, replacing, write_clip
from ..pipeline import Bundle, OnStep, Request, check_request, generate
from .config import Validation, ValidationPrompt

FOLDER, SCORES = "samples", "scores.jsonl"
SILENCE = 1e-4  # of full scale, -80 dB
QUIETEST = -120.0  # dB


class Sample(NamedTuple):
    """A line of scores.jsonl. clip: name of its file."""

    step: int
    clip: str
    say: str
    scores: dict[str, float]


class Validator:
    """Makes the clips of `prompts` in `out`/samples, each time with another state of the model.

    bundle: what encodes and decodes; size: width and height of the clips. main: False in the other processes
    of a run, which make the clips too, because a spread model needs them all, and write nothing.
    Raises ValueError or OSError of one sentence for a prompt that cannot be made or a file that is not there.
    """

    def __init__(
        self,
        bundle: Bundle,
        config: Validation,
        prompts: Sequence[ValidationPrompt],
        out: Path,
        size: tuple[int, int],
        main: bool = True,
    ) -> None:
        self.bundle, self.folder, self.main = bundle, out / FOLDER, main
        self.requests = [read_request(bundle, config, prompt, size) for prompt in prompts]
        if main:
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob(".*.part"):
                left.unlink()  # of a process that was killed while it wrote

    def make(self, step: int, model: nn.Module, on_step: OnStep | None = None) -> list[Sample]:
        """A clip of each prompt after `step` steps, written and judged; what on_step raises ends it."""
        bundle, samples = replace(self.bundle, model=model), []
        with undisturbed(bundle):
            for i, request in enumerate(self.requests):
                clip, name = generate(bundle, request, on_step), f"step-{step:06d}-{i}.mp4"
                samples.append(Sample(step, name, request.say, scores(clip, request)))
                if self.main:
                    write_clip(self.folder / name, clip, {"unitalk": request.say}, bundle.shown)
        if self.main:
            self._store(samples, step)
        return samples

    def _store(self, samples: Sequence[Sample], step: int) -> None:
        """Beside those of earlier steps: a resumed run makes the later ones again."""
        kept = [one for one in read_scores(self.folder) if one.step < step]
        with replacing(self.folder / SCORES) as temporary:
            text = "".join(json.dumps(one._asdict()) + "\n" for one in [*kept, *samples])
            temporary.write_text(text, encoding="utf-8")


def read_scores(folder: Path) -> list[Sample]:
    """What is written in a run's samples; none before the first validation."""
    path = folder / SCORES
    if not path.is_file():
        return []
    try:
        return [Sample(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} holds a line that is no score; delete the file") from error


def read_request(
    bundle: Bundle, config: Validation, prompt: ValidationPrompt, size: tuple[int, int]
) -> Request:
    """The prompt with its files read; ValueError or OSError if it cannot be made."""
    rate = bundle.config.format.sample_rate
    request = Request(
        say=prompt.say,
        scene=prompt.scene,
        sound=prompt.sound,
        seconds=prompt.seconds,
        seed=prompt.seed,
        width=size[0],
        height=size[1],
        steps=config.steps,
        video_cfg=config.video_cfg,
        audio_cfg=config.audio_cfg,
        voice=None if prompt.voice is None else read_audio(prompt.voice, rate, mono=True)[0][0],
        image=None if prompt.image is None else read_image(prompt.image),
    )
    check_request(bundle.config, request)
    return request


@contextmanager
def undisturbed(bundle: Bundle) -> Iterator[None]:
    """Everything of the bundle on its device and in eval mode; afterwards chance and modes are as before."""
    coders = [bundle.video_vae, bundle.audio_codec, bundle.text_encoder]
    modes = [(module, module.training) for part in (bundle.model, *coders) for module in part.modules()]
    with torch.random.fork_rng([bundle.device] if bundle.device.type == "cuda" else []):
        bundle.model.eval()
        for coder in coders:
            coder.eval().to(bundle.device)
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training


# --- judging ---------------------------------------------------------------------------------------------


def scores(clip: Clip, request: Request) -> dict[str, float]:
    """Name -> number, for every judge that has something to judge.

    sync_r, lag (frames): mouth and sound of a portrait; loudness (dB), silence (share of the time);
    timbre, pitch (cents): distances to the given voice; first_frame (dB): to the given image;
    words: share of the long ones that a recogniser hears, English only.
    """
    found: dict[str, float] = {}
    if clip.waveform is not None:
        sound = clip.waveform.mean(0)
        found |= sound_scores(sound, clip)
        if request.voice is not None:
            found |= voice_scores(sound, request.voice, clip.sample_rate)
        if (heard := words_heard(request.say, sound, clip.sample_rate)) is not None:
            found["words"] = heard
    if clip.frames is not None and request.image is not None:
        found["first_frame"] = decibels(clip.frames[0], request)
    return {name: round(value, 4) for name, value in found.items()}


def sound_scores(sound: Tensor, clip: Clip) -> dict[str, float]:
    """sound: (n,)"""
    loud = 20 * math.log10(max(float(sound.square().mean().sqrt()), 10 ** (QUIETEST / 20)))
    fps = float(clip.fps)
    frames = round(len(sound) * fps / clip.sample_rate) if clip.frames is None else len(clip.frames)
    level = sync.loudness(sound, clip.sample_rate, fps, frames)
    quiet = level <= max(SILENCE, sync.SPEECH_FLOOR * float(level.max()))
    found = {"loudness": loud, "silence": float(quiet.float().mean())}
    if clip.frames is None or frames <= sync.MAX_LAG:
        return found
    opening = sync.mouth_opening(clip.frames)
    lag = float(sync.best_lag(opening, level))
    return found | {"sync_r": sync.sync(opening, level), "lag": lag}


def voice_scores(sound: Tensor, given: Tensor, sample_rate: int) -> dict[str, float]:
    """sound, given: (n,)"""
    own, theirs = (voice.timbre(one, sample_rate) for one in (sound, given))
    found = {"timbre": voice.timbre_distance(own, theirs)}
    pitches = [voice.median_pitch(one, sample_rate) for one in (sound, given)]
    if not any(map(math.isnan, pitches)):
        found["pitch"] = voice.cents(*pitches)
    return found


def words_heard(say: str, sound: Tensor, sample_rate: int) -> float | None:
    """Share of the words of two and more syllables that are recognised; None where no judge can say."""
    from ..evaluation.held_out import LONG_WORD, long_words

    if find_spec("pocketsphinx") is None or not words.knows(say):
        return None
    said = words.split_words(say)
    long = [word for word in said if words.syllables(word) >= LONG_WORD]
    if not long:
        return None
    heard = words.recognise(sound, sample_rate, words.choices(said, long_words()), len(said))
    return words.accuracy(long, heard)


def decibels(frame: Tensor, request: Request) -> float:
    """Signal-to-noise ratio of a frame (h, w, 3) against the image that was given as the first one."""
    given = fill(request.image, request.width, request.height)[0].permute(1, 2, 0)
    return float(-10 * (frame - given).square().mean().clamp_min(1e-10).log10())
