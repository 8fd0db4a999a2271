"""Guided attention: while it learns, the sound stream is told which phone it is speaking.

Synthetic clips know when each phone is spoken. Some heads of some blocks are asked to put their text
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
from ..config import ModelConfig
from ..data.speech import Mark
from ..data.visemes import VISEME_OF, viseme_names
from ..models.mmdit import Hooks, RunBlock, forward_block
from ..models.phonemes import BOUNDARY, END, IDS, PAUSES, SPEECH, prompt_ids, pronounce
from .hooks import attend, attention_weights

GUIDED_BLOCKS = (2, 3)
GUIDED_HEADS = 3  # the first ones
SEPARATORS = {IDS[token] for token in (BOUNDARY, *PAUSES)}
IPA = {
    "B": "b", "CH": "tʃ", "D": "d", "DH": "ð", "F": "f", "G": "ɡ", "HH": "h", "JH": "dʒ", "K": "k", "L": "l",
    "M": "m", "N": "n", "NG": "ŋ", "P": "p", "R": "ɹ", "S": "s", "SH": "ʃ", "T": "t", "TH": "θ", "V": "v",
    "W": "w", "Y": "j", "Z": "z", "ZH": "ʒ",
    "AA": "ɑ", "AE": "æ", "AH": "ʌ", "AO": "ɔ", "AW": "aʊ", "AY": "aɪ", "EH": "ɛ", "ER": "ɜ", "EY": "eɪ",
    "IH": "ɪ", "IY": "i", "OW": "oʊ", "OY": "ɔɪ", "UH": "ʊ", "UW": "u",
}  # fmt: skip  # how espeak-ng writes a phone of CMUdict
IPA_VOWELS = frozenset("aɑæəɐʌɔoɒɛeɪᵻɜɚɝiuʊ")
Span = tuple[float, float]
Timing = tuple[str, float, float]


def spoken_tokens(ids: Tensor, words: Sequence[Sequence[Span]], latents: int, rate: float) -> Tensor:
    """(latents,) index of the text token that each audio latent speaks, or -1 where nobody speaks.

    ids: of the prompt; words: start and end in seconds of each phone of each word (`phone_spans`);
    rate: audio latents per second. All -1 if the prompt splits into other words.
    """
    target = torch.full((latents,), -1)
    groups = word_tokens(ids.tolist())
    if [last - first for first, last in groups] != [len(word) for word in words]:
        return target
    times = (torch.arange(latents) + 0.5) / rate
    for (first, _), word in zip(groups, words, strict=True):
        for i, (start, end) in enumerate(word):
            target[(times >= start) & (times < end)] = first + i
    return target


def spoken_at(
    prompt: str, words: Sequence[Timing], phones: Sequence[Timing], latents: int, config: ModelConfig
) -> Tensor:
    """(latents,) as `spoken_tokens`, for a finished prompt and (text, start, end) of words and IPA phones."""
    ids = torch.tensor(prompt_ids(prompt, config.streams.audio.text_len))
    return spoken_tokens(ids, word_spans(words, phones), latents, config.format.audio_rate)


def word_spans(words: Sequence[Timing], phones: Sequence[Timing]) -> list[list[Span]]:
    """When each phone of each word is heard, in the phones of the miniature's language."""
    marks = [Mark(*phone) for phone in phones]
    inside = [[one for one in marks if start <= (one.start + one.end) / 2 < end] for _, start, end in words]
    return [phone_spans(pronounce(word[0]), heard) for word, heard in zip(words, inside, strict=True)]


def phone_spans(tokens: Sequence[str], phones: Sequence[Mark]) -> list[Span]:
    """When each CMUdict phone of a word is heard, given the IPA phones that were spoken.

    The two spellings are matched by dynamic time warping; tokens that share a phone share its time.
    """
    heard: list[list[Span]] = [[] for _ in tokens]
    path = _warp([[_distance(token, phone.text) for phone in phones] for token in tokens])
    for j, phone in enumerate(phones):
        sharing = [i for i, k in path if k == j]
        step = (phone.end - phone.start) / len(sharing)
        for place, i in enumerate(sharing):
            heard[i].append((phone.start + place * step, phone.start + (place + 1) * step))
    return [(spans[0][0], spans[-1][1]) for spans in heard]


def _distance(token: str, ipa: str) -> float:
    """0 if the phone holds the sound, 0.3 if the lips look the same, 3 between vowel and consonant."""
    sound = IPA[token.rstrip("012")][0]
    if sound in ipa:
        return 0.0
    if VISEME_OF[sound] in viseme_names(ipa):
        return 0.3
    return 1.0 if (sound in IPA_VOWELS) == any(sign in IPA_VOWELS for sign in ipa) else 3.0


def _warp(cost: list[list[float]]) -> list[tuple[int, int]]:
    """The cheapest monotonic path from the first to the last cell, through every row and column."""
    best: dict[tuple[int, int], tuple[float, list[tuple[int, int]]]] = {}
    for i, row in enumerate(cost):
        for j, here in enumerate(row):
            before = [best[cell] for cell in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if cell in best]
            total, path = min(before, key=lambda one: one[0]) if before else (0.0, [])
            best[i, j] = total + here, [*path, (i, j)]
    return best[len(cost) - 1, len(cost[0]) - 1][1]


def word_tokens(ids: list[int]) -> list[tuple[int, int]]:
    """(first, past the last) token of each spoken word."""
    if IDS[SPEECH] not in ids:
        return []
    start, end = ids.index(IDS[SPEECH]) + 1, ids.index(IDS[END])
    cuts = [start - 1, *(i for i in range(start, end) if ids[i] in SEPARATORS), end]
    return [(a + 1, b) for a, b in pairwise(cuts) if b > a + 1]


@dataclass
class Guide:
    """Runs the guided blocks with an attention that keeps its weights, and turns them into a loss."""

    text_len: int
    seen: list[Tensor] = field(default_factory=list)

    def around(self, hooks: Hooks) -> Hooks:
        """`hooks` with the guided blocks watched."""
        return replace(hooks, run_block=partial(self._run, hooks.run_block))

    def loss(self, target: Tensor) -> Tensor:
        """(b,) -log of the attention on the right tokens, mean over what is spoken. target: (b, n)."""
        tokens = torch.arange(self.text_len, device=target.device)
        right = tokens == target[..., None]  # nowhere, where nobody speaks
        spoken = (target >= 0).float()
        parts = []
        for weights in self.seen:
            mass = (weights[:, :GUIDED_HEADS].float() * right[:, None]).sum(-1).clamp(min=1e-4)
            parts.append(-(mass.log().mean(1) * spoken).sum(1) / spoken.sum(1).clamp(min=1))
        self.seen = []
        return torch.stack(parts).mean(0)

    def _run(self, inner: RunBlock | None, index: int, block: partial, state: AV) -> AV:
        if index not in GUIDED_BLOCKS:
            return block(state) if inner is None else inner(index, block, state)
        captured: list[Tensor] = []
        blocks, meeting = block.args
        watched = replace(meeting, attention=partial(self._attend, captured))
        state = forward_block(blocks, watched, state, attend=attend)
        self.seen.append(captured[-1])  # the sound stream comes last
        return state

    def _attend(
        self, captured: list[Tensor], q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        weights = attention_weights(q, k, mask)
        if k.shape[2] == self.text_len:
            captured.append(weights)
        return weights @ v
