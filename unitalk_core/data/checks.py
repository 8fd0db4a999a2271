"""Whether clips are fit to train on: reasons that refuse one, and notes that do not, each one sentence.

f frames · h, w rows, columns · c channels · n samples
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..av import ClipFormat
from ..config import ModelConfig
from ..excerpt import MIN_VOICE
from ..media import read_audio
from ..models.markup import SPEECH_TAGS, TAG
from ..models.phonemes import prompt_ids, unknown_captions
from ..models.text_encoder import clean_text
from .clips import CAPTION, Probe, Row, probe, prompts_of, read_clip, whole_frames

log = logging.getLogger("unitalk")

OnClip = Callable[[int, int, str], None]  # (i, of, name), after each; what it raises interrupts

SHORTEST = 5  # frames: two latents
TOLERANCE = 0.05  # seconds that sound may begin late, and end before or after the picture
SILENT = 1e-3  # peak; -60 dBFS
FULL, CLIPPED = 0.999, 1e-3  # a sample this large; the share of them that is heard
STRETCH = 0.02  # seconds over which a level is measured
QUIET, SILENCE = 0.02, 0.6  # of the loudest stretch; the share of such stretches that is worth a note
STATIC = 0.5 / 255  # mean change of a pixel from frame to frame
CUT, OUTLIER = 0.12, 8  # the same; and times the median change of the clip


@dataclass(frozen=True)
class Finding:
    """What was found in one clip. reasons refuse it, notes do not. seconds, frames: as the model sees it."""

    name: str
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    frames: int = 0


def check_rows(
    rows: Sequence[Row],
    config: ModelConfig,
    size: tuple[int, int],
    on_clip: OnClip | None = None,
    text_encoder: Any = None,
) -> list[Finding]:
    """A finding for each clip, in order. Raises ValueError for a size that the model cannot have.

    size: (width, height) of the picture that is trained on; text_encoder: without it, only phonemes tell
    whether a caption is too long.
    """
    config.format.check_size(*size)
    findings: list[Finding] = []
    first: dict[str, str] = {}
    for i, row in enumerate(rows, 1):
        found = _check_row(row, config, size, text_encoder)
        if row.video.is_file() and (same := first.setdefault(sha256(row.video), row.name)) != row.name:
            found = replace(found, notes=(*found.notes, f"it is the same file as {same}"))
        findings.append(found)
        if on_clip is not None:
            on_clip(i, len(rows), row.name)
    return findings


def refuse(findings: Sequence[Finding], shown: int = 8) -> None:
    """ValueError that lists the clips which cannot be used, if there are any."""
    bad = [f"{one.name}: {one.reasons[0]}" for one in findings if one.reasons]
    if bad:
        listed = " | ".join([*bad[:shown], *([f"and {len(bad) - shown} more"] if len(bad) > shown else [])])
        raise ValueError(f"{len(bad)} of {len(findings)} clips cannot be used; mend or remove them: {listed}")


def sha256(path: Path) -> str:
    """Of the bytes of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            found.update(part)
    return found.hexdigest()


@contextmanager
def hushed() -> Iterator[None]:
    """Without the log's warnings about single prompts: the notes of a finding say the same once a clip."""
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _check_row(row: Row, config: ModelConfig, size: tuple[int, int], text_encoder: Any) -> Finding:
    """From what costs least to what costs most; pixels are decoded only where nothing else is wrong."""
    clip, frames = config.format, 0
    (reasons, notes), (more_reasons, more_notes) = (
        _caption(row, config, text_encoder),
        _reference(row, config),
    )
    reasons, notes = reasons + more_reasons, notes + more_notes
    try:
        file = probe(row.video)
        frames = whole_frames(max(1, file.frames(clip)), clip)
        reasons += _form(file, clip, size)
        reasons += [] if row.mouth is None else _mouth(file, row)
        if not reasons:
            reasons, more = _sound(row, file)
            notes += _conversions(file, clip, frames) + more
        if not reasons:
            notes += _picture(row, clip, size)
    except (ValueError, OSError) as error:
        reasons.append(str(error))
    return Finding(row.name, tuple(reasons), tuple(notes), frames / float(clip.fps), frames)


# ---- the file ----------------------------------------------------------------------------------------------


def _form(file: Probe, clip: ClipFormat, size: tuple[int, int]) -> list[str]:
    """Length, size and streams."""
    frames, longest, least = file.frames(clip), float(clip.max_frames / clip.fps), SHORTEST / float(clip.fps)
    found = []
    if frames < SHORTEST:
        found.append(f"it lasts {file.seconds:.2f} s and must last {least:.2f} s at least; take a longer one")
    elif whole_frames(frames, clip) > clip.max_frames:
        found.append(f"it lasts {file.seconds:.2f} s and the longest is {longest:.2f} s; cut it into pieces")
    if file.width < size[0] or file.height < size[1]:
        found.append(
            f"its picture is {file.width} x {file.height}, smaller than the {size[0]} x {size[1]} that are "
            "trained on; take a larger video or a smaller size"
        )
    if not file.sample_rate:
        found.append("it has no sound; give a video with sound")
    return found


def _mouth(file: Probe, row: Row) -> list[str]:
    if len(row.mouth) != len(file.times):
        count = f"{len(row.mouth)} mouth boxes for {len(file.times)} frames"
        return [f"it has {count}; give one for each frame of the file, or none at all"]
    for i, (left, top, right, bottom) in enumerate(row.mouth):
        if not (0 <= left < right <= file.width and 0 <= top < bottom <= file.height):
            box = f"{left:g}, {top:g}, {right:g}, {bottom:g}"
            return [
                f"the mouth box of frame {i} ({box}) is outside the {file.width} x {file.height} picture; "
                "give left, top, right, bottom in its pixels"
            ]
    return []


def _conversions(file: Probe, clip: ClipFormat, frames: int) -> list[str]:
    """How the file is brought to the model's grid."""
    notes = []
    if not math.isclose(file.fps, float(clip.fps), rel_tol=1e-3):
        notes.append(f"its {file.fps:.4g} frames a second become {float(clip.fps):g}")
    if file.sample_rate != clip.sample_rate:
        notes.append(f"its sound is resampled from {file.sample_rate} to {clip.sample_rate} Hz")
    if file.channels > 1:
        notes.append(f"its {file.channels} channels of sound are mixed to one")
    if left := file.frames(clip) - frames:
        last = "last frame is" if left == 1 else f"last {left} frames are"
        notes.append(f"its {last} left out, because the model sees {clip.frame_stride}n+1")
    return notes


def _picture(row: Row, clip: ClipFormat, size: tuple[int, int]) -> list[str]:
    """Notes on the picture as the model sees it. ValueError if it cannot be decoded."""
    frames = read_clip(row, clip, size).frames
    change = torch.stack([(after - before).abs().mean() for before, after in pairwise(frames)])
    if float(change.max()) < STATIC:
        return ["its picture does not move; lips that never move teach no speech"]
    if float(change.max()) > max(CUT, OUTLIER * float(change.median())):
        at = (int(change.argmax()) + 1) / float(clip.fps)
        return [f"its picture changes at once at {at:.2f} s, as at a cut; a clip should be one shot"]
    return []


# ---- the sound ---------------------------------------------------------------------------------------------


def _sound(row: Row, file: Probe) -> tuple[list[str], list[str]]:
    """(reasons, notes) of the sound as it is in the file."""
    waveform, rate = read_audio(row.video)
    late = file.delay + waveform.shape[1] / rate - file.seconds
    if problem := _unheard(waveform):
        return [f"its sound {problem}"], []
    if apart := _apart(file.delay, late):
        allowed = f"{TOLERANCE * 1000:.0f} ms are allowed"
        return [f"its sound {apart} its picture ({allowed}); cut both to the same time"], []
    notes = []
    if float((waveform.abs() >= FULL).float().mean()) > CLIPPED:
        notes.append("its sound is clipped; record it at a lower level")
    stretch = max(1, int(rate * STRETCH))
    levels = waveform.mean(0).unfold(0, stretch, stretch).square().mean(1).sqrt()
    quiet = float((levels < QUIET * levels.max()).float().mean())
    if quiet > SILENCE:
        notes.append(f"{quiet:.0%} of it is silence; cut some of it off")
    return [], notes


def _apart(begins: float, ends: float) -> str:
    """How sound and picture differ, or nothing. begins, ends: seconds of the sound after the picture."""
    if begins > TOLERANCE:
        return f"begins {begins * 1000:.0f} ms after"
    if abs(ends) > TOLERANCE:
        return f"ends {abs(ends) * 1000:.0f} ms {'after' if ends > 0 else 'before'}"
    return ""


def _unheard(waveform: Tensor) -> str:
    """What makes a sound useless, or nothing."""
    if not torch.isfinite(waveform).all():
        return "holds values that are not numbers; export it again"
    if float(waveform.abs().max()) < SILENT:
        return "is silent; give a recording in which somebody is heard"
    return ""


def _reference(row: Row, config: ModelConfig) -> tuple[list[str], list[str]]:
    """(reasons, notes) of the other recording of the voice."""
    if row.reference is None:
        return [], []
    try:
        waveform, rate = read_audio(row.reference, mono=True)
    except (ValueError, OSError) as error:
        return [f"its reference cannot be used: {error}"], []
    seconds, heard = waveform.shape[1] / rate, config.reference_len / config.format.audio_rate
    if seconds < MIN_VOICE:
        return [f"its reference lasts {seconds:.2f} s; give at least {MIN_VOICE:g} s of the voice"], []
    if problem := _unheard(waveform):
        return [f"its reference {problem}"], []
    if 0 < heard < seconds - TOLERANCE:
        return [], [f"the model hears the first {heard:.1f} s of its reference"]
    return [], []


# ---- the words ---------------------------------------------------------------------------------------------


def _caption(row: Row, config: ModelConfig, text_encoder: Any) -> tuple[list[str], list[str]]:
    """(reasons, notes)"""
    parts = (row.scene, row.speech, row.sound)
    if not any(part.strip() for part in parts):
        return [f"it has no caption; write {CAPTION} into {row.video.stem}.txt, or into its row"], []
    if tags := [tag for part in parts for tag in TAG.findall(part)]:
        wanted = f"wants one {SPEECH_TAGS[0]} and one {SPEECH_TAGS[1]} ({CAPTION})"
        return [f"its caption has {' '.join(tags)} and {wanted}"], []
    try:
        with hushed():
            for prompt in prompts_of(row, config.markup).values():
                check_length(prompt, config, text_encoder)
    except ValueError as error:
        return [f"its caption cannot be used: {error}"], []
    notes = []
    if not row.speech.strip():
        notes.append(f"nobody speaks in its caption; put what is said between tags ({CAPTION})")
    if config.markup == "phonemes" and (unknown := unknown_captions(f"{row.scene} {row.sound}")):
        notes.append(f"this model does not know some words of its caption: {', '.join(unknown)}")
    return [], notes


def check_length(prompt: str, config: ModelConfig, text_encoder: Any) -> None:
    """ValueError if a finished prompt is more than the text encoder takes."""
    limit = config.streams.present()[0].text_len
    if config.markup == "phonemes":
        prompt_ids(prompt, limit)
    elif text_encoder is not None and (count := len(text_encoder.tokenize(clean_text(prompt)))) > limit:
        raise ValueError(f"the prompt makes {count} tokens and {limit} fit; write less")
