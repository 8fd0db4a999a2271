"""How much a model's clips look and sound like one person, of whom there is a folder of clips.

The model is asked in words alone: the person's own captions, with sentences that training never has. The mean
picture of a clip should be nearest to the person's among forty faces, and its timbre nearer to the person's
voice than to other voices; a LoRA of the person should raise what the base gets.
"""

# f frames · h, w rows, columns of pixels · k coefficients

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..av import Clip
from ..data.clips import read_clip, read_rows
from ..data.synthetic import synthesize_clip
from ..pipeline import Bundle, Request, generate
from ..workers import workers
from . import voice
from .held_out import draw_held_out
from .measures import columns, measure
from .report import OnClip

STRANGERS = 39  # held-out clips of other faces and voices


@dataclass(frozen=True)
class Look:
    """picture: (h, w, 3) in 0..1, the mean of a clip's frames; timbre: (2, k)."""

    picture: Tensor
    timbre: Tensor

    @classmethod
    def of(cls, clip: Clip) -> Look:
        return cls(clip.frames.mean(0), voice.timbre(clip.waveform.mean(0), clip.sample_rate))

    @classmethod
    def mean(cls, looks: Sequence[Look]) -> Look:
        pictures, timbres = ([getattr(one, name) for one in looks] for name in ("picture", "timbre"))
        return cls(torch.stack(pictures).mean(0), torch.stack(timbres).mean(0))

    def decibels(self, other: Look) -> float:
        """Peak signal-to-noise ratio between the mean pictures."""
        return float(-10 * (self.picture - other.picture).square().mean().clamp_min(1e-10).log10())

    def distance(self, other: Look) -> float:
        """Of the timbres."""
        return voice.timbre_distance(self.timbre, other.timbre)

    def likeness(self, person: Look, strangers: Sequence[Look]) -> tuple[float, float, float, float]:
        """Identity (0 or 1), face in dB, share of voices that are farther, timbre distance."""
        face, tone = self.decibels(person), self.distance(person)
        nearest = all(face > self.decibels(one) for one in strangers)
        farther = sum(tone < self.distance(one) for one in strangers) / len(strangers)
        return float(nearest), face, farther, tone


NAMES = ("face.identity", "face.db", "voice.timbre", "voice.timbre_distance")


def likeness(
    folder: Path,
    bundle: Bundle,
    clips: int = 20,
    seed: int = 0,
    on_clip: OnClip | None = None,
    processes: int = 1,
) -> dict[str, dict[str, Any]]:
    """Measures by name, as `report.evaluate` gives them; ceiling: the person's own clips; on_clip(done, of).

    ValueError for a folder without usable clips, or fewer than 4 clips to make.
    """
    if clips < 4:
        raise ValueError(f"likeness needs at least 4 clips, got {clips}")
    rows, size = read_rows(folder), (Request().width, Request().height)
    true = [Look.of(read_clip(row, bundle.config.format, size)) for row in rows]
    person, strangers = Look.mean(true), other_people(seed)
    asked = (
        Request(say=one.say, scene=row.scene, sound=row.sound, seconds=one.seconds, seed=seed + i)
        for i, (one, row) in enumerate(zip(draw_held_out(seed, clips), cycle(rows), strict=False))
    )
    made = []
    with workers(partial(generate, bundle), processes) as clips_of:
        for clip in clips_of(asked):
            made.append(Look.of(clip).likeness(person, strangers))
            if on_clip is not None:
                on_clip(len(made), clips)
    ceilings = columns([one.likeness(person, strangers) for one in true])
    measured = zip(NAMES, columns(made), ceilings, strict=True)
    return {name: measure(values, ceiling=best).to_json() for name, values, best in measured}


def other_people(seed: int) -> list[Look]:
    """Looks of held-out faces with voices seen and unseen."""
    clips = [synthesize_clip(seed, i, held_out=True) for i in range(STRANGERS)]
    return [Look.of(one.clip) for one in clips]
