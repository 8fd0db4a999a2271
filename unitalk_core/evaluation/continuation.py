"""Does a clip that goes on jump at its seam, and are the words that it goes on with understood?

True clips through the model's own codecs are continued with the words of the next one, every fourth of them
eight times in a row. A seam is smooth if picture and sound change no more there than at 95 of 100 places
inside the same clip.
"""

# f frames · h, w rows, columns · c channels · n samples · t mel frames

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import max_pool1d

from ..av import Clip
from ..data.synthetic import SyntheticClip
from ..models.mel import Mel
from ..pipeline import Bundle, Request, generate
from ..seam import PAUSE, room, seen_frames
from ..workers import workers
from .held_out import Result
from .measures import Measure, Threshold, columns, measure
from .report import recoded

IN_A_ROW, EVERY = 8, 4
USUAL = 0.95  # share of the places in a clip that change no more than a smooth seam does
THRESHOLDS = {
    "continue.picture_seam": Threshold(limit=0.90),
    "continue.sound_seam": Threshold(limit=0.90),
    "continue.words_eighth": Threshold(limit=0.75),
}


@dataclass(frozen=True)
class Seam:
    """A clip, and the frame and the sample at which its second part begins."""

    clip: Clip
    frame: int
    sample: int

    @classmethod
    def between(cls, old: Clip, new: Clip) -> Seam:
        """A hard cut from one clip to another."""
        frames, waveform = torch.cat([old.frames, new.frames]), torch.cat([old.waveform, new.waveform], dim=1)
        return cls(replace(old, frames=frames, waveform=waveform), len(old.frames), old.waveform.shape[1])

    @classmethod
    def at(cls, clip: Clip, frame: int) -> Seam:
        """A place inside a clip."""
        return cls(clip, frame, round(frame * clip.sample_rate / clip.fps))

    @property
    def old(self) -> Clip:
        """The part before it."""
        frames, waveform = self.clip.frames[: self.frame], self.clip.waveform[:, : self.sample]
        return replace(self.clip, frames=frames, waveform=waveform)

    @property
    def new(self) -> Clip:
        """The part behind it."""
        frames, waveform = self.clip.frames[self.frame :], self.clip.waveform[:, self.sample :]
        return replace(self.clip, frames=frames, waveform=waveform)

    def smooth(self, mel: Mel) -> tuple[float, float]:
        """1 for a picture that changes here as it usually does, else 0; the same for the sound."""
        reach = mel.config.n_fft // mel.config.hop // 2  # of a window, in mel frames
        sound = sound_steps(mel(self.clip.waveform.mean(0, keepdim=True))[0], reach)
        return (
            usual(picture_steps(self.clip.frames), self.frame - 1),
            usual(sound, self.sample // mel.config.hop - 1, 2 * reach),
        )


def picture_steps(frames: Tensor) -> Tensor:
    """(f, h, w, c) -> (f - 1,) mean differences between neighbours."""
    return frames.diff(dim=0).abs().mean((1, 2, 3))


def sound_steps(mel: Tensor, reach: int) -> Tensor:
    """(mels, t) log-mel -> (t - 1,) mean differences between neighbours, the largest within `reach`."""
    steps = mel.diff(dim=1).abs().mean(0)
    return max_pool1d(steps[None], 2 * reach + 1, stride=1, padding=reach)[0]


def usual(steps: Tensor, place: int, reach: int = 0) -> float:
    """1 if the step at a place is within the 95th percentile of those more than `reach` away, else 0."""
    elsewhere = torch.cat([steps[: max(0, place - reach)], steps[place + reach + 1 :]])
    return float(steps[place] <= elsewhere.quantile(USUAL))


def continuation(
    bundle: Bundle,
    truths: Sequence[SyntheticClip],
    seed: int,
    on_clip: Callable[[int, int], None] | None = None,
    processes: int = 1,
) -> dict[str, Measure]:
    """Share of smooth seams, and of right words in what was added first and eighth in a row.

    Baselines: hard cuts into another clip, and the words in another sound. Ceilings: places by chance in the
    true clips, and their words. on_clip(done, of) after the clips of each row.
    """
    lengths = [IN_A_ROW if i % EVERY == 0 else 1 for i in range(len(truths))]
    made: list[Row] = []
    with workers(partial(row, bundle, truths, seed), processes) as rows:
        for one in rows(enumerate(lengths)):
            made.append(one)
            if on_clip is not None:
                on_clip(sum(lengths[: len(made)]), sum(lengths))
    pictures, sounds = columns([one.smooth for one in made])
    parts = {
        "continue.picture_seam": pictures,
        "continue.sound_seam": sounds,
        "continue.words": [words_row(one.first, made[i - 1].first) for i, one in enumerate(made)],
        "continue.words_eighth": [one.eighth for one in made if one.eighth is not None],
    }
    return {name: measure(*columns(part), THRESHOLDS.get(name)) for name, part in parts.items()}


@dataclass(frozen=True)
class Row:
    """A clip that went on once, or eight times.

    first: the sound that was added first; smooth: rows of picture and sound, see `compared`; eighth: words of
    what was added last, see `words_row`.
    """

    first: Result
    smooth: list[tuple[float, ...]]
    eighth: tuple[float, float, float] | None


def row(bundle: Bundle, truths: Sequence[SyntheticClip], seed: int, which: tuple[int, int]) -> Row:
    """The row that begins with a clip. which: its number, and how often it goes on."""
    i, length = which
    seams = chain(bundle, truths, i, length, seed)
    seam, truth = next(seams)
    first = spoken(seam, truth)
    smooth = compared(bundle, seam, truths[i], truth, random.Random(f"{seed}/{i}"))
    last = deque(seams, maxlen=1)
    return Row(first, smooth, words_row(spoken(*last[0]), first) if last else None)


def chain(
    bundle: Bundle, truths: Sequence[SyntheticClip], first: int, length: int, seed: int
) -> Iterator[tuple[Seam, SyntheticClip]]:
    """A clip that goes on again and again with the words of the next: its newest seam, and whose words."""
    clip, who, form = recoded(bundle, truths[first]), truths[first], bundle.config.format
    for k in range(1, length + 1):
        truth = truths[(first + k) % len(truths)]
        asked = Request(
            say=truth.say, scene=who.scene, sound=who.sound, seed=seed + first + k, continued=clip
        )
        longest = room(form, seen_frames(form, clip, asked.overlap))
        longer = generate(bundle, replace(asked, seconds=min(truth.seconds + PAUSE, longest)))
        yield Seam(longer, len(clip.frames), clip.waveform.shape[1]), truth
        clip = longer


def spoken(seam: Seam, truth: SyntheticClip) -> Result:
    """The sound of what was added; its picture is not kept in memory."""
    return Result(replace(seam.new, frames=None), truth)


def compared(
    bundle: Bundle, seam: Seam, own: SyntheticClip, other: SyntheticClip, dice: random.Random
) -> list[tuple[float, ...]]:
    """Smoothness of a seam, a hard cut and a place by chance: a row of the picture and one of the sound."""
    middle = Seam.at(other.clip, len(other.frames) // 2)
    chance = Seam.at(own.clip, dice.randrange(1, len(own.frames)))
    places = (seam, Seam.between(seam.old, middle.new), chance)
    return columns([one.smooth(bundle.audio_codec.mel) for one in places])


def words_row(own: Result, other: Result) -> tuple[float, float, float]:
    """Right words in a sound, in another one, and in the true clip."""
    return own.right_words, own.right_words_in(other), Result(own.truth.clip, own.truth).right_words
