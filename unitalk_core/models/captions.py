"""The closed vocabulary of the miniature's captions: what a face and a voice can be, and what else means it.

The order is part of the stored vocabulary: add new words at the end of CAPTION_WORDS only.
"""

from __future__ import annotations

PEOPLE = ("woman", "man")
SKINS = ("light", "tan", "brown", "dark")
HAIR_STYLES = ("short", "long", "curly", "spiky", "bun", "ponytail", "bald")
HAIR_COLOURS = ("black", "brown", "blonde", "red", "grey", "white")
BACKGROUNDS = ("blue", "green", "yellow", "pink", "grey", "purple", "orange", "teal")
PITCHES = ("deep", "low", "medium", "high")
SPEEDS = ("slow", "steady", "fast")
SEXES = ("male", "female")
EMOTIONS = ("happy", "sad", "angry", "surprised")
GRAMMAR = ("a", "with", "skin", "hair", "in", "and", "glasses", "background", "voice")

CAPTION_WORDS: tuple[str, ...] = tuple(
    dict.fromkeys(
        (
            *PEOPLE,
            *SKINS,
            *HAIR_STYLES,
            *HAIR_COLOURS,
            *BACKGROUNDS,
            *PITCHES,
            *SPEEDS,
            *SEXES,
            *GRAMMAR,
            *EMOTIONS,
            "speaks",
            "an",
        )
    )
)

ALSO = {  # other words for these, and their spellings elsewhere
    "gray": "grey", "blond": "blonde", "ginger": "red", "violet": "purple", "turquoise": "teal",
    "girl": "woman", "lady": "woman", "boy": "man", "guy": "man", "pale": "light", "fair": "light",
    "cheerful": "happy", "smiling": "happy", "unhappy": "sad", "mad": "angry", "furious": "angry",
    "wears": "with", "wearing": "with",
}  # fmt: skip
