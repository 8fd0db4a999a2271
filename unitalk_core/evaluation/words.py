"""Does the sound say the words? pocketsphinx with a grammar: known words, a known number of them.

It is reliable for words of two and more syllables (natural speech: .96 right among 50) and useless for short
ones. It chooses from a grammar, says nothing about free speech, and may not be called a word error rate.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ..media import resample
from ..models.phonemes import pronounce

SAMPLE_RATE = 16000  # of pocketsphinx's English model
PADDING = 0.2  # seconds of silence on both sides
DITHER = 4e-3  # of full scale: silence confuses it (espeak's words among 150: .82 with 1e-4, .92 with this)
CHOICES = 50  # words in a grammar: a guess is right once in fifty


def syllables(word: str) -> int:
    """Vowels in its pronunciation."""
    return sum(phone[-1].isdigit() for phone in pronounce(word.lower()))


def split_words(text: str) -> list[str]:
    """'Balcony, potato!' -> ['balcony', 'potato']"""
    return re.findall(r"[a-z]+(?:'[a-z]+)*", text.lower())


def word_hits(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Words of the reference that the hypothesis has in the same order (longest common subsequence)."""
    row = [0] * (len(hypothesis) + 1)
    for word in reference:
        diagonal = 0
        for j, heard in enumerate(hypothesis, 1):
            diagonal, row[j] = row[j], diagonal + 1 if word == heard else max(row[j], row[j - 1])
    return row[-1]


def accuracy(reference: Sequence[str], hypothesis: Sequence[str]) -> float:
    """Share of the reference words that were recognised in their order, 0..1."""
    if not reference:
        raise ValueError("word accuracy needs at least one reference word")
    return word_hits(reference, hypothesis) / len(reference)


def choices(reference: Sequence[str], pool: Sequence[str], size: int = CHOICES) -> list[str]:
    """The reference and words drawn from `pool`, `size` in all; the same for the same reference."""
    if len(set(pool) | set(reference)) < size:
        raise ValueError(f"{size} choices need a pool of as many words, got {len(set(pool))}")
    draw = random.Random(" ".join(reference))
    chosen = dict.fromkeys(reference)
    while len(chosen) < size:
        chosen[draw.choice(pool)] = None
    return sorted(chosen)


def check_installed() -> None:
    """ModuleNotFoundError without the recogniser."""
    if find_spec("pocketsphinx") is None:
        raise ModuleNotFoundError(
            "judging words needs pocketsphinx: run pip install pocketsphinx (or the extra [eval])"
        )


@cache
def _decoder() -> Any:
    import pocketsphinx

    # bestpath off and batch cmn: each a few points better on single words of espeak
    return pocketsphinx.Decoder(lm=None, samprate=SAMPLE_RATE, loglevel="FATAL", cmn="batch", bestpath=False)


def knows(text: str) -> bool:
    """Whether every word of the text is in the recogniser's English dictionary."""
    return text.isascii() and all(_decoder().lookup_word(word) for word in split_words(text))


def recognise(waveform: Tensor, sample_rate: int, vocabulary: Iterable[str], word_count: int) -> list[str]:
    """What (n,) or (channels, n) in -1..1 says: `word_count` words of `vocabulary`, or [] if nothing fits."""
    words, decoder = sorted({word.lower() for word in vocabulary}), _decoder()
    if not words or word_count < 1:
        raise ValueError(f"a grammar needs words and a count, got {len(words)} words and count {word_count}")
    for word in words:
        if decoder.lookup_word(word) is None:
            decoder.add_word(word, " ".join(phone.rstrip("012") for phone in pronounce(word)))
    said = " ".join(["<word>"] * word_count)
    rules = f"<word> = {' | '.join(words)};\npublic <said> = {said};"
    decoder.add_jsgf_string("words", f"#JSGF V1.0;\ngrammar words;\n{rules}\n")
    decoder.activate_search("words")
    mono = waveform.detach().float().cpu().reshape(-1, waveform.shape[-1]).mean(0, keepdim=True)
    decoder.start_utt()
    decoder.process_raw(_pcm(resample(mono, sample_rate, SAMPLE_RATE)[0]), full_utt=True)
    decoder.end_utt()
    heard = decoder.hyp()
    return [] if heard is None else [re.sub(r"\(\d+\)$", "", word) for word in heard.hypstr.split()]


def _pcm(waveform: Tensor) -> bytes:
    """16-bit samples, padded and dithered; the same bytes for the same waveform."""
    padded = torch.nn.functional.pad(waveform, [round(PADDING * SAMPLE_RATE)] * 2)
    padded = padded + DITHER * torch.randn(padded.shape, generator=torch.Generator().manual_seed(0))
    return (padded.clamp(-1, 1) * 32767).to(torch.int16).numpy().tobytes()
