"""Train the joint model of the miniature on cached latents: a plain loop over the core's own loss.

Stage 1 trains the sound stream alone on speech, with and without a reference voice; stage 2 trains both
streams on all tasks, one task a batch (paper: section 4.5). The text encoder learns along.

b batch · c channels · f latent frames · h, w latent rows, columns · n audio latents
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..av import AV
from ..diffusion.schedules import shift_sigmas
from ..models.mmdit import Hooks, JointDiT
from ..models.text_encoder import PhonemeEncoder
from .alignment import Guide
from .hooks import compiled_hooks
from .loop import Budget, OnStep, fit
from .objective import Batch, flow_matching_loss

# task -> (kept: "video" | "audio" | None, couple); T2AV covers TI2AV and TR2AV, drawn per sample
TASKS: dict[str, tuple[str | None, tuple[bool, bool]]] = {
    "t2av": (None, (True, True)),
    "uncoupled": (None, (False, False)),
    "tv2a": ("video", (False, True)),
    "ta2v": ("audio", (True, False)),
}
ALIGNMENT = 0.15  # weight of the guided attention
JOINT_MIX = {"t2av": 0.5, "uncoupled": 0.1, "tv2a": 0.15, "ta2v": 0.25}


class Prompt(NamedTuple):
    """Token ids, and which of them each audio latent speaks (-1 between words)."""

    ids: Tensor
    spoken: Tensor


@dataclass(frozen=True)
class Example:
    """One clip in latents. Its prompt exists in several forms; one is drawn each time."""

    video: Tensor | None  # (c, f, h, w)
    audio: Tensor  # (c, n)
    reference: Tensor  # (c, m), the same voice saying something else
    prompts: Sequence[Prompt]
    weight: Tensor | None = None  # (h, w) of the picture loss


@dataclass(frozen=True, kw_only=True)
class Chances:
    """How often a condition is left out, and how often the first frame is given."""

    no_text: float = 0.1
    no_reference: float = 0.4
    first_frame: float = 0.4


@dataclass
class Examples:
    """Examples grouped by length, so that a batch needs no padding."""

    examples: Sequence[Example]
    seed: int
    chances: Chances = field(default_factory=Chances)
    generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        if not self.examples:
            raise ValueError("there is nothing to train on: the cache holds no examples")
        self.generator = torch.Generator("cpu").manual_seed(self.seed)
        self.groups: dict[int, list[Example]] = {}
        for one in self.examples:
            self.groups.setdefault(one.audio.shape[-1], []).append(one)
        self.lengths = sorted(self.groups)
        self.shares = torch.tensor([float(len(self.groups[n])) for n in self.lengths])

    def draw(self, count: int) -> list[Example]:
        """Examples of one length; batches of short ones come as often as their share."""
        group = self.groups[self.lengths[int(torch.multinomial(self.shares, 1, generator=self.generator))]]
        return [group[i] for i in torch.randint(len(group), (count,), generator=self.generator).tolist()]

    def happens(self, chance: float, count: int) -> Tensor:
        return torch.rand(count, generator=self.generator) < chance

    def task(self, mix: Mapping[str, float]) -> str:
        weights = torch.tensor(list(mix.values()))
        return list(mix)[int(torch.multinomial(weights, 1, generator=self.generator))]

    def batch(
        self, drawn: list[Example], task: str, text_encoder: PhonemeEncoder, picture: bool
    ) -> tuple[Batch, Tensor]:
        """Stack examples of one length into the masks and conditions of `task`."""
        kept, couple = TASKS[task]
        audio = torch.stack([one.audio for one in drawn]).float()
        video = torch.stack([one.video for one in drawn]).float() if picture else None
        mask = AV(
            None if video is None else torch.ones(len(drawn), 1, video.shape[2], 1, 1),
            torch.ones(len(drawn), 1, audio.shape[2]),
        )
        if mask.video is not None:
            mask.video[self.happens(self.chances.first_frame, len(drawn)), :, 0] = 0
        if kept is not None:
            getattr(mask, kept).zero_()
        weight = None if video is None else torch.stack([one.weight for one in drawn])[:, None, None]
        context, spoken = self.context(drawn, text_encoder)
        batch = Batch(AV(video, audio), mask, context, self.reference(drawn), couple, AV(weight, None))
        return batch, spoken

    def context(self, drawn: list[Example], text_encoder: PhonemeEncoder) -> tuple[Tensor, Tensor]:
        """(b, text_len, dim), a dropped text is all zeros; (b, n), the token that each latent speaks."""
        spoken = torch.full((len(drawn), drawn[0].audio.shape[1]), -1)
        ids = torch.zeros(len(drawn), text_encoder.config.text_len, dtype=torch.long)
        dropped = self.happens(self.chances.no_text, len(drawn))
        for i in (~dropped).nonzero().flatten().tolist():
            choices = drawn[i].prompts
            pick = choices[int(torch.randint(len(choices), (), generator=self.generator))]
            ids[i, : len(pick.ids)], spoken[i] = pick.ids, pick.spoken
        return text_encoder(ids), spoken

    def reference(self, drawn: list[Example]) -> Tensor:
        """(b, length, c); a dropped reference is all zeros, and every reference starts at a random place."""
        longest = max(one.reference.shape[1] for one in drawn)
        rows = torch.zeros(len(drawn), longest, drawn[0].reference.shape[0])
        for row, one, dropped in zip(
            rows, drawn, self.happens(self.chances.no_reference, len(drawn)), strict=True
        ):
            if not dropped:
                row[: one.reference.shape[1]] = one.reference.T.float()
        return rows


class Trainee(nn.Module):
    """The joint model and the text encoder that learns with it."""

    def __init__(self, model: JointDiT, text_encoder: PhonemeEncoder) -> None:
        super().__init__()
        self.model, self.text_encoder = model, text_encoder


def train_joint(
    trainee: Trainee,
    examples: Examples,
    budget: Budget,
    *,
    mix: Mapping[str, float] = JOINT_MIX,
    picture: bool = True,
    hooks: Hooks | None = None,
    on_step: OnStep | None = None,
) -> Trainee:
    """Both streams on a mixture of tasks, or (`picture=False`) sound alone. Returns averaged weights."""
    shift = trainee.model.config.shift  # most steps where words are decided, at high noise
    guide = Guide(trainee.text_encoder.config.text_len)
    hooks = guide.around(hooks or compiled_hooks())

    def losses() -> dict[str, Tensor]:
        task = examples.task(mix) if picture else "t2av"
        batch, spoken = examples.batch(examples.draw(budget.batch), task, trainee.text_encoder, picture)
        noise = batch.latent.map(lambda x: torch.randn(x.shape, generator=examples.generator))
        sigma = shift_sigmas(torch.rand(budget.batch, generator=examples.generator), shift)
        with torch.autocast("cpu", torch.bfloat16, enabled=budget.autocast):
            parts = flow_matching_loss(trainee.model, batch, sigma, noise, hooks)
        named = {
            name: part for name, part in (("video", parts.video), ("audio", parts.audio)) if part is not None
        }
        aligned = guide.loss(spoken)
        return {"loss": sum(named.values()) + ALIGNMENT * aligned} | named | {"alignment": aligned}

    return fit(trainee, budget, losses, on_step)


@torch.no_grad()
def start_as_twin(model: JointDiT) -> None:
    """Copy the trained sound stream into the picture stream, but for its ends: input layer and head.

    The paper goes the other way, from a trained picture stream; here speech is what has been learned.
    """
    audio = dict(model.audio_model.named_parameters())
    for name, parameter in model.video_model.named_parameters():
        if not name.startswith(("patch_embedding", "head")):
            parameter.copy_(audio[name])
