"""Guided attention: while it learns, the sound stream is told which phone it is speaking.

Synthetic clips know when each word is spoken. Some heads of some blocks are asked to put their text
attention there; without this the miniature does not find the alignment within its budget (docs/log.md).
Nothing of it remains at sampling time.

b batch · h heads · n audio latents · m text tokens
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from ..av import AV
from ..models.mmdit import Hooks, RunBlock
from ..models.phonemes import BOUNDARY, END, IDS, PAUSES, SPEECH

GUIDED_BLOCKS = (2, 3)
GUIDED_HEADS = 3  # the first ones
REACH = 1  # tokens on either side that count as right
SEPARATORS = {IDS[token] for token in (BOUNDARY, *PAUSES)}
Word = tuple[str, float, float]


def spoken_tokens(ids: Tensor, words: Sequence[Word], latents: int, rate: float) -> Tensor:
    """(latents,) index of the text token that each audio latent speaks, or -1 between words.

    ids: of the prompt; words: with start and end in seconds; rate: audio latents per second. Within a word
    time is shared out evenly. All -1 if the prompt splits into another number of words.
    """
    target = torch.full((latents,), -1)
    groups = word_tokens(ids.tolist())
    if len(groups) != len(words):
        return target
    times = (torch.arange(latents) + 0.5) / rate
    for (first, last), (_, start, end) in zip(groups, words, strict=True):
        inside = (times >= start) & (times < end)
        place = (times[inside] - start) / max(end - start, 1e-6) * (last - first)
        target[inside] = first + place.long()
    return target


def word_tokens(ids: list[int]) -> list[tuple[int, int]]:
    """(first, past the last) token of each spoken word."""
    if IDS[SPEECH] not in ids:
        return []
    start, end = ids.index(IDS[SPEECH]) + 1, ids.index(IDS[END])
    cuts = [start - 1, *(i for i in range(start, end) if ids[i] in SEPARATORS), end]
    return [(a + 1, b) for a, b in pairwise(cuts) if b > a + 1]


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    """(b, h, n, m): softmax over the keys that the boolean mask leaves."""
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return (logits if mask is None else logits.masked_fill(~mask, float("-inf"))).softmax(-1)


@dataclass
class Guide:
    """Runs the guided blocks with an attention that keeps its weights, and turns them into a loss."""

    text_len: int
    seen: list[Tensor] = field(default_factory=list)

    def around(self, hooks: Hooks) -> Hooks:
        """`hooks` with the guided blocks watched."""
        return replace(hooks, run_block=partial(self._run, hooks.run_block))

    def loss(self, target: Tensor) -> Tensor:
        """-log of the attention on the right tokens, mean over what is spoken. target: (b, n)."""
        tokens = torch.arange(self.text_len)
        right = ((tokens - target[..., None]).abs() <= REACH) & (target >= 0)[..., None]
        spoken = (target >= 0).float()
        parts = []
        for weights in self.seen:
            mass = (weights[:, :GUIDED_HEADS].float() * right[:, None]).sum(-1).clamp(min=1e-4)
            parts.append(-(mass.log().mean(1) * spoken).sum() / spoken.sum().clamp(min=1))
        self.seen = []
        return torch.stack(parts).mean()

    def _run(self, inner: RunBlock | None, index: int, block: partial, state: AV) -> AV:
        if index not in GUIDED_BLOCKS:
            return block(state) if inner is None else inner(index, block, state)
        captured: list[Tensor] = []
        blocks, meeting = block.args
        state = block.func(blocks, replace(meeting, attention=partial(self._attend, captured)), state)
        self.seen.append(captured[-1])  # the sound stream comes last
        return state

    def _attend(
        self, captured: list[Tensor], q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        weights = attention_weights(q, k, mask)
        if k.shape[2] == self.text_len:
            captured.append(weights)
        return weights @ v
