"""The passes of one step: what each gives to the network, and several of them as one batch.

Only passes whose coupling, blocks and times of voices agree can share one. What they give is filled up so
that the numbers stay theirs: texts and voices with zero rows, as the network does itself, and an absent voice
with zeros, which is the null voice.

b batch · n tokens
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..av import AV
from ..models.voices import Voices
from .guidance import Latents

MODES = ("auto", "batched", "sequential")
MOST = 8  # passes in a batch


@dataclass(frozen=True)
class Pass:
    """What the network is called with. heard: the voice that would be heard, where none is."""

    latent: Latents
    timestep: Latents
    context: Latents
    reference: AV[Tensor | Voices | None] | None
    couple: tuple[bool, bool]
    blocks: tuple[int, ...]
    heard: AV[Tensor | Voices | None] | None = None

    @property
    def form(self) -> tuple[Any, ...]:
        """Equal for passes that can share a batch."""
        voices = () if self.heard is None else (self.heard.video, self.heard.audio)
        return (
            self.couple,
            self.blocks,
            *(one.spans if isinstance(one, Voices) else one is None for one in voices),
        )

    def run(self, model: Callable[..., Latents]) -> Latents:
        """The velocity, in the type of the latent that was given."""
        return model(
            self.latent,
            self.timestep,
            self.context,
            self.reference,
            couple=self.couple,
            skip_blocks=self.blocks,
        )


def run_all(model: Callable[..., Latents], passes: Sequence[Pass], together: int) -> list[Latents]:
    """The velocity of each, `together` passes of one form at most in a batch."""
    found: list[Latents | None] = [None] * len(passes)
    for places in batches([one.form for one in passes], together):
        for place, velocity in zip(places, run_batch(model, [passes[i] for i in places]), strict=True):
            found[place] = velocity
    return found


def batches(forms: Sequence[Any], most: int) -> list[list[int]]:
    """Places of equal forms, `most` in each list."""
    places = [[i for i, one in enumerate(forms) if one == form] for form in dict.fromkeys(forms)]
    return [some[i : i + most] for some in places for i in range(0, len(some), most)]


def run_batch(model: Callable[..., Latents], passes: Sequence[Pass]) -> list[Latents]:
    if len(passes) == 1:
        return [passes[0].run(model)]
    first = passes[0]
    velocity = replace(
        first,
        latent=joined(torch.cat, [one.latent for one in passes]),
        timestep=joined(as_one_kind, [one.timestep for one in passes]),
        context=joined(as_long, [one.context for one in passes]),
        reference=references(passes),
    ).run(model)
    rows = velocity.map(lambda one: one.chunk(len(passes)))
    return [rows.map(lambda one: one[i]) for i in range(len(passes))]  # noqa: B023 - called at once


def joined(join: Callable[[list[Any]], Any], parts: Sequence[AV]) -> AV:
    """Stream by stream."""
    return parts[0].map(lambda *ones: join(list(ones)), *parts[1:])


def as_one_kind(timesteps: Sequence[Tensor]) -> Tensor:
    """(b,) and (b, n) -> one behind the other; (b, n) if any is."""
    tokens = [one.shape[1] for one in timesteps if one.ndim == 2]
    if tokens:
        timesteps = [one if one.ndim == 2 else one[:, None].expand(-1, tokens[0]) for one in timesteps]
    return torch.cat(list(timesteps))


def as_long(rows: Sequence[Tensor]) -> Tensor:
    """(b, length, c) of several lengths, one behind the other."""
    longest = max(one.shape[1] for one in rows)
    return torch.cat([pad(one, (0, 0, 0, longest - one.shape[1])) for one in rows])


def references(passes: Sequence[Pass]) -> AV[Tensor | Voices | None] | None:
    """Of all passes; silence for one that leaves out what the others hear."""
    if passes[0].heard is None:
        return None
    given = [one.heard.map(silence) if one.reference is None else one.reference for one in passes]
    return joined(voices_in_one, given)


def silence(voice: Tensor | Voices) -> Tensor | Voices:
    if isinstance(voice, Voices):
        return replace(voice, latents=tuple(map(torch.zeros_like, voice.latents)))
    return torch.zeros_like(voice)


def voices_in_one(voices: Sequence[Tensor | Voices]) -> Tensor | Voices:
    if isinstance(voices[0], Voices):
        latents = zip(*(one.latents for one in voices), strict=True)
        return replace(voices[0], latents=tuple(map(as_long, latents)))
    return as_long(voices)
