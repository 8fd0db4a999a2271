"""Which clips a step learns from, and everything that is drawn for them.

Nothing is remembered between steps: all chance follows from (seed, step, place in the step). So a run goes on
exactly where it stopped, and neither the number of processes nor that of passes changes what is drawn.

b batch · c channels · f latent frames · h, w latent rows, columns · n audio latents
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..av import AV
from ..config import ModelConfig
from ..data.cache import Item, Text
from ..diffusion.schedules import shift_sigmas
from ..models.markup import without_first_words
from ..models.phonemes import prompt_ids
from .alignment import spoken_at
from .config import Noise, TrainConfig
from .objective import Batch
from .tasks import TASKS, Task


class Clips(Protocol):
    """What is trained on: a `data.cache.Cache`, or the miniature's own shards."""

    names: list[str]
    shapes: list[tuple[int, int, int, int]]
    speakers: list[str]
    fingerprint: str

    def __len__(self) -> int: ...
    def __getitem__(self, i: int) -> Item: ...
    def forms(self, i: int) -> list[str]: ...


class Step(NamedTuple):
    """What all processes share. clips: of the cache, one for each place, equal shapes side by side."""

    number: int
    name: str
    task: Task
    couple: tuple[bool, bool]
    clips: list[int]


class Drawn(NamedTuple):
    """A pass, ready for the model. names: of its clips; spoken: (b, n) token of each latent, or -1."""

    batch: Batch
    sigma: AV[Tensor]
    noise: AV[Tensor | None]
    spoken: Tensor
    names: list[str]
    learns: tuple[str, ...]  # the losses of the task


@dataclass(frozen=True)
class Batches:
    """Draws from a cache as a configuration asks. learn_text: give ids, for a text encoder that learns."""

    cache: Clips
    config: TrainConfig
    model: ModelConfig
    learn_text: bool = False

    def step(self, number: int) -> Step:
        """One task for all clips; each epoch shows every clip once."""
        name = weighted(self.config.tasks, self._chance(number, "task"))
        apart = happens(self.config.drop.couple, self._chance(number, "couple"))
        couple = (False, False) if apart else TASKS[name].couple
        places = range(number * self.config.batch, (number + 1) * self.config.batch)
        orders = {epoch: self._order(epoch) for epoch in {place // len(self.cache) for place in places}}
        clips = [orders[place // len(self.cache)][place % len(self.cache)] for place in places]
        clips.sort(key=lambda clip: self.cache.shapes[clip])
        return Step(number, name, TASKS[name], couple, clips)

    def passes(self, step: Step, process: int = 0, processes: int = 1) -> list[list[int]]:
        """This process's share of the places, in passes of one shape; as many for every process."""
        size = len(step.clips) // processes
        shares = [list(range(p * size, (p + 1) * size)) for p in range(processes)]
        cut = [list(self._runs(share, step.clips, -(-size // self.config.accumulate))) for share in shares]
        return divided(cut[process], max(map(len, cut)))

    def _runs(self, share: list[int], clips: list[int], most: int) -> Iterator[list[int]]:
        for _, group in groupby(share, key=lambda place: self.cache.shapes[clips[place]]):
            places = list(group)
            yield from (places[i : i + most] for i in range(0, len(places), most))

    def draw(self, step: Step, places: Sequence[int]) -> Drawn:
        """The clips in these places, with their masks, conditions, noise and sigma."""
        task, clips = step.task, [step.clips[place] for place in places]
        chances = [self._chance(step.number, place) for place in places]
        items = [self.cache[clip] for clip in clips]
        latent = AV(
            torch.stack([one.video for one in items]).float() if task.picture else None,
            torch.stack([one.audio for one in items]).float(),
        )
        starts = [self._prefix(task, *pair) for pair in zip(items, chances, strict=True)]
        kept = [self._kept(task, *pair) for pair in zip(items, starts, strict=True)]
        if self.learn_text:
            items = [said_after(*pair) for pair in zip(items, map(self._seconds, starts), strict=True)]
        texts = [self._text(*pair) for pair in zip(items, chances, strict=True)]
        voices = [self._voice(task, *both) for both in zip(clips, items, chances, strict=True)]
        sigmas = [draw_sigma(self.config.noise, self.model.shift, chance) for chance in chances]
        batch = Batch(
            latent=latent,
            denoise_mask=AV(
                torch.stack([one.video for one in kept]) if task.picture else None,
                torch.stack([one.audio for one in kept]),
            ),
            context=self._context(texts),
            reference=stacked(voices, self._reference_shape()),
            couple=step.couple,
            mouth=mouths(items) if "mouth" in task.learns else None,
        )
        noise = latent.map(
            lambda x: torch.stack([torch.randn(x.shape[1:], generator=one) for one in chances])
        )
        spoken = torch.stack([self._spoken(*pair) for pair in zip(items, texts, strict=True)])
        sigma = AV(*(torch.tensor(column) for column in zip(*sigmas, strict=True)))
        return Drawn(batch, sigma, noise, spoken, [one.name for one in items], task.learns)

    def _prefix(self, task: Task, item: Item, chance: torch.Generator) -> int:
        """Latent frames that a continuation is given: up to half of the clip, cutting no word if it can."""
        if task.keep_video != "prefix":
            return 0
        lengths = range(1, max(2, 1 + item.video.shape[1] // 2))
        whole = [n for n in lengths if not any(a < self._seconds(n) < b for _, a, b in item.words)] or lengths
        return whole[int(torch.randint(len(whole), (), generator=chance))]

    def _seconds(self, frames: int) -> float:
        """How long so many latent frames last."""
        clock = self.model.format
        return max(0, 1 + (frames - 1) * clock.frame_stride) / float(clock.fps)

    def _kept(self, task: Task, item: Item, start: int) -> AV[Tensor]:
        """Masks (1, f, 1, 1) and (1, n); a prefix of `start` frames is the same seconds of both streams."""
        frames, latents = item.video.shape[1] if item.video is not None else 1, item.audio.shape[1]
        ends = {"nothing": (0, 0), "first": (1, 0), "all": (frames, latents)}
        ends["prefix"] = (start, min(int(self._seconds(start) * self.model.format.audio_rate), latents - 1))
        video, audio = torch.ones(1, frames, 1, 1), torch.ones(1, latents)
        video[:, : ends[task.keep_video][0]] = 0
        audio[:, : ends[task.keep_audio][1]] = 0
        return AV(video, audio)

    def _text(self, item: Item, chance: torch.Generator) -> Text | None:
        """One form of the caption, or None: left out. Forms that a clip lacks leave their share to others."""
        dropped = happens(self.config.drop.text, chance)
        weights = {form: share for form, share in self.config.captions.items() if form in item.texts}
        if not sum(weights.values()):
            raise ValueError(f"{item.name} has none of the captions {', '.join(self.config.captions)}")
        form = weighted(weights, chance)
        return None if dropped else item.texts[form]

    def _voice(self, task: Task, clip: int, item: Item, chance: torch.Generator) -> Tensor | None:
        """(n, c) of the clip's own reference, or of another clip of the same speaker."""
        dropped, pick = happens(self.config.drop.reference, chance), torch.rand((), generator=chance)
        if dropped or not task.voice:
            return None
        if item.reference is not None:
            return item.reference.T.float()
        speakers = enumerate(self.cache.speakers)
        same = [one for one, who in speakers if who and who == item.speaker and one != clip]
        return self.cache[same[int(pick * len(same))]].audio.T.float() if same else None

    def _reference_shape(self) -> tuple[int, int] | None:
        """(latents, channels) of the voice that the model hears, or None if it hears none."""
        heard, channels = self.model.reference_len, self.model.format.audio_channels
        return (heard, channels) if heard else None

    def _context(self, texts: list[Text | None]) -> Tensor:
        """(b, text_len, dim), or (b, text_len) ids; zeros where a text is left out."""
        first = self.model.streams.present()[0]
        if self.learn_text:
            ids = [
                None if one is None else torch.tensor(prompt_ids(one.prompt, first.text_len)) for one in texts
            ]
            return stacked(ids, (first.text_len,), torch.long)
        features = [None if one is None else one.features.float() for one in texts]
        return stacked(features, (first.text_len, first.text_dim))

    def _spoken(self, item: Item, text: Text | None) -> Tensor:
        latents = item.audio.shape[1]
        if text is None or not self.config.loss.alignment:
            return torch.full((latents,), -1)
        return spoken_at(text.prompt, item.words, item.phones, latents, self.model)

    def _order(self, epoch: int) -> list[int]:
        """Every clip once, by chance, but clips of one shape near each other: fewer passes make a step."""
        count, size, chance = len(self.cache), self.config.batch, self._chance(epoch, "order")
        alike = sorted(torch.randperm(count, generator=chance).tolist(), key=self.cache.shapes.__getitem__)
        start = int(torch.randint(count, (), generator=chance))  # else the same clips would always meet
        turned = [*alike[start:], *alike[:start]]
        first, rest = turned[: -epoch * count % size], turned[-epoch * count % size :]
        steps = len(rest) // size  # whole ones, behind that which the epoch before has begun
        order = torch.randperm(steps, generator=chance).tolist()
        between = [clip for step in order for clip in rest[step * size : (step + 1) * size]]
        return [*first, *between, *rest[steps * size :]]

    def _chance(self, *key: object) -> torch.Generator:
        """A random stream that depends on the seed and the key alone."""
        text = "/".join(map(str, (self.config.seed, *key)))
        number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
        return torch.Generator("cpu").manual_seed(number)


def divided(runs: list[list[int]], count: int) -> list[list[int]]:
    """The longest run halved, again and again, until there are `count`."""
    while len(runs) < count:
        longest = max(runs, key=len)
        at, half = runs.index(longest), len(longest) // 2
        runs = [*runs[:at], longest[:half], longest[half:], *runs[at + 1 :]]
    return runs


def said_after(item: Item, seconds: float) -> Item:
    """The clip with captions that leave out the words which end by then: a continuation is told the rest."""
    said = sum(end <= seconds for _, _, end in item.words)
    if not said:
        return item
    texts = {
        form: Text(without_first_words(text.prompt, said), text.features) for form, text in item.texts.items()
    }
    return replace(item, texts=texts, words=item.words[said:])


def happens(chance: float, generator: torch.Generator) -> bool:
    return bool(torch.rand((), generator=generator) < chance)


def weighted(weights: Mapping[str, float], generator: torch.Generator) -> str:
    """One name, as often as its weight says."""
    shares = torch.tensor(list(weights.values()), dtype=torch.float64)
    return list(weights)[int(torch.multinomial(shares, 1, generator=generator))]


def draw_sigma(noise: Noise, shift: float, generator: torch.Generator) -> tuple[float, float]:
    """(video, audio) of one clip."""

    def one() -> float:
        if noise.kind == "logit-normal":
            normal = torch.randn((), generator=generator)
            return float((noise.mean + noise.std * normal).sigmoid())
        uniform = torch.rand((), generator=generator)
        return float(uniform if noise.kind == "uniform" else shift_sigmas(uniform, noise.shift or shift))

    video, audio = one(), one()
    return (video, video) if noise.shared else (video, audio)


def mouths(items: Sequence[Item]) -> Tensor | None:
    """(b, 1, f, h, w); None where no clip has boxes, zeros for one without."""
    if all(one.mouth is None for one in items):
        return None
    like = items[0].video[:1]
    return torch.stack([torch.zeros_like(like) if one.mouth is None else one.mouth[None] for one in items])


def stacked(
    rows: Sequence[Tensor | None], shape: tuple[int, ...] | None, dtype: torch.dtype = torch.float32
) -> Tensor | None:
    """(b, *shape): each row at the start of its place, cut to it; zeros behind it and where there is none."""
    if shape is None:
        return None
    out = torch.zeros(len(rows), *shape, dtype=dtype)
    for place, row in zip(out, rows, strict=True):
        if row is not None:
            place[: min(len(row), len(place))] = row[: len(place)]
    return out
