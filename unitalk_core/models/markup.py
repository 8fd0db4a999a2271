"""What an artist types in three fields becomes the prompt that a checkpoint was trained on.

Scene, then speech in <S>…<E>, then the sound in <AUDCAP>…<ENDAUDCAP> (Ovi 960: `Audio: …` to the end).
`(word:1.2)` in any of them is a weight, as in ComfyUI; all other brackets are text: (16:9), (10:30), (a, b).
"""

from __future__ import annotations

import re

SPEECH_TAGS = ("<S>", "<E>")
AUDIO_TAGS = ("<AUDCAP>", "<ENDAUDCAP>")
AUDIO_PREFIX = "Audio:"
# markup -> how the sound description is written
SOUND_FORMS = {
    "unitalk": f"{AUDIO_TAGS[0]}{{}}{AUDIO_TAGS[1]}",
    "ovi-720": f"{AUDIO_TAGS[0]}{{}}{AUDIO_TAGS[1]}",
    "ovi-960": f"{AUDIO_PREFIX} {{}}",
    "phonemes": "{}",
}
TAG = re.compile("|".join(SPEECH_TAGS + AUDIO_TAGS))
SPEECH = re.compile(r"(?s){}(.*?){}\s*".format(*SPEECH_TAGS))
# one digit before the point; whole numbers only where no digit stands before the colon: (16:9) is no weight
WEIGHT = re.compile(r"\(([^()<>]+?):(\d?\.\d+|(?<!\d:)\d)\)")


def build_prompt(markup: str, scene: str = "", speech: str = "", sound: str = "") -> str:
    """The finished prompt: `scene <S>speech<E> sound`, each part only if it is given.

    ValueError if all three are empty, if a part carries tags itself, or if the markup is unknown.
    """
    if markup not in SOUND_FORMS:
        raise ValueError(f"markup must be one of {', '.join(SOUND_FORMS)}, got '{markup}'")
    parts = {"scene": scene.strip(), "speech": speech.strip(), "sound": sound.strip()}
    if not any(parts.values()):
        raise ValueError("there is no prompt: give at least one of speech, scene or sound")
    for name, text in parts.items():
        check_untagged(name, text)
    said = f"{SPEECH_TAGS[0]}{parts['speech']}{SPEECH_TAGS[1]}" if parts["speech"] else ""
    heard = SOUND_FORMS[markup].format(parts["sound"]) if parts["sound"] else ""
    return " ".join(part for part in (parts["scene"], said, heard) if part)


def check_markup(written: str, read: str) -> None:
    """ValueError if a description of sound was written in another way than a model reads it: it would be
    seen, or spoken."""
    if SOUND_FORMS[written] != SOUND_FORMS[read]:
        raise ValueError(
            f"the sound of the prompt was written as {written}, and this model reads {read}; "
            f"choose {read} as markup in UniTalk Text Encode"
        )


def check_untagged(name: str, text: str) -> None:
    """ValueError if `text`, which the user knows as `name`, carries tags itself."""
    if tag := TAG.search(text):
        raise ValueError(f"the {name} holds the tag {tag[0]}; write it without tags, they are added here")


def weighted_parts(text: str) -> list[tuple[str, float]]:
    """Stretches and their weights: `a (loud:1.3) bell` -> ("a ", 1.0), ("loud", 1.3), (" bell", 1.0)."""
    parts, end = [], 0
    for found in WEIGHT.finditer(text):
        parts += [(text[end : found.start()], 1.0), (found[1], float(found[2]))]
        end = found.end()
    return [*parts, (text[end:], 1.0)]


def without_weights(text: str) -> str:
    """`a (loud:1.3) bell (or two)` -> `a loud bell (or two)`"""
    return WEIGHT.sub(r"\1", text)


def without_first_words(prompt: str, count: int) -> str:
    """A finished prompt whose speech leaves out its first `count` words, and its tags if none are left."""

    def shorter(speech: re.Match[str]) -> str:
        left = " ".join(speech[1].split()[count:])
        return f"{SPEECH_TAGS[0]}{left}{SPEECH_TAGS[1]} " if left else ""

    return SPEECH.sub(shorter, prompt).strip()
