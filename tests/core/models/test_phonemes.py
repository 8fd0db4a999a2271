"""Text becomes phones: dictionary, rules, numbers, pauses, and sentences about what cannot be spoken."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

import pytest

from unitalk_core.data.synthetic import spoken_words
from unitalk_core.models.captions import ALSO, CAPTION_WORDS
from unitalk_core.models.markup import without_weights
from unitalk_core.models.phonemes import (
    BOUNDARY,
    IDS,
    PAD,
    PAUSES,
    PHONES,
    VOCABULARY,
    caption_tokens,
    left_out,
    prompt_ids,
    prompt_tokens,
    pronounce,
    speech_tokens,
    token_weights,
    unknown_captions,
    unspoken,
    vocabulary_hash,
)
from unitalk_core.models.spelling import sound_out, spell_number, to_words


def said(text: str) -> str:
    return " ".join("|" if token == BOUNDARY else token for token in speech_tokens(text))


def test_the_vocabulary_is_a_bijection_with_padding_first() -> None:
    assert IDS[PAD] == 0
    assert len(set(VOCABULARY)) == len(VOCABULARY) == len(IDS)
    assert {f"#{word}" for word in CAPTION_WORDS} <= IDS.keys()
    assert re.fullmatch("[0-9a-f]{12}", vocabulary_hash())


def test_words_sound_as_in_the_dictionary() -> None:
    assert said("Hello, world!") == "HH AH0 L OW1 , W ER1 L D !"
    assert said("the cat") == "DH AH0 | K AE1 T"
    assert pronounce("smith's") == (*pronounce("smith"), "S")
    assert pronounce("zorp's")[-1] == "S" and pronounce("zorch's")[-2:] == ("IH0", "Z")


@pytest.mark.parametrize(
    "word", ["blorptastic", "zyxquorl", "xqz", "hjkl", "w", "tion", "aaaa", "qu", "ough", "eeyore"]
)
def test_any_letters_give_phones_with_one_stressed_vowel_or_more(word: str) -> None:
    phones = pronounce(word)
    assert phones and set(phones) <= set(PHONES)
    assert any(phone.endswith("1") for phone in phones)


def edits(a: Sequence[str], b: Sequence[str]) -> int:
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            diagonal, row[j] = row[j], min(diagonal + (left != right), row[j] + 1, row[j - 1] + 1)
    return row[-1]


def test_the_rules_come_close_to_the_dictionary() -> None:
    """Four phones in five are right, stress aside, on every thirteenth word of the training data."""
    errors = total = 0
    for word in spoken_words()[::13]:
        known, ruled = ([p.rstrip("012") for p in phones] for phones in (pronounce(word), sound_out(word)))
        errors, total = errors + edits(ruled, known), total + len(known)
    assert errors / total < 0.2


def test_accents_and_ligatures_are_read() -> None:
    assert said("café naïve") == said("cafe naive")
    assert said("Straße") == said("strasse")
    assert said("ｆｕｌｌ ’tis") == said("full 'tis")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"), (7, "seven"), (13, "thirteen"), (40, "forty"), (99, "ninety nine"), (100, "one hundred"),
        (110, "one hundred ten"), (1000, "one thousand"), (12_305, "twelve thousand three hundred five"),
        (1_000_001, "one million one"), (999_999_999, " ".join(["nine hundred ninety nine million",
         "nine hundred ninety nine thousand nine hundred ninety nine"])),
    ],
)  # fmt: skip
def test_numbers_are_spelled(number: int, words: str) -> None:
    assert spell_number(number) == words
    assert to_words(f"{number:,}") == words


def test_a_number_out_of_range_is_refused_or_read_digit_by_digit() -> None:
    with pytest.raises(ValueError, match="999,999,999"):
        spell_number(1_000_000_000)
    assert to_words("1000000000") == "one zero zero zero zero zero zero zero zero zero"
    assert to_words("007") == "zero zero seven"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("21st", "twenty first"), ("2nd", "second"), ("30th", "thirtieth"), ("112th", "one hundred twelfth"),
        ("3.05", "three point zero five"), ("50%", "fifty percent"), ("$1", "one dollar"),
        ("£2.50", "two pounds fifty"),
        ("7:30", "seven thirty"), ("7:05", "seven oh five"), ("7:00", "seven o'clock"), ("-5", "minus five"),
        ("Dr. No", "doctor no"), ("you & me", "you and me"), ("e.g. this", "for example this"),
        ("A4", "a four"),
    ],
)  # fmt: skip
def test_writing_is_expanded(text: str, words: str) -> None:
    assert to_words(text) == words


def test_punctuation_pauses_once_and_never_first() -> None:
    assert said("… well -- go?!") == "W EH1 L | G OW1 !"
    assert said("one; two: three") == said("one, two, three")
    assert not set(PAUSES) & set(speech_tokens("a well-known (bar")[:3])


def test_what_cannot_be_spoken_is_dropped_with_a_notice(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "unitalk"):
        assert said("go 你 home 😀") == said("go home")
    assert "你" in caplog.text and "😀" in caplog.text
    assert unspoken('say "hello" — now…') == []


@pytest.mark.parametrize("text", ["", "   ", "你好，世界", "😀🎉", "?!", "…", "'", "''"])
def test_nothing_speakable_is_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="can be spoken; write English words"):
        speech_tokens(text)


def test_a_prompt_has_captions_outside_and_phones_inside() -> None:
    tokens = prompt_tokens("A Woman, red hair! zzz <S>hi<E> low voice")
    assert tokens == ["#a", "#woman", "#red", "#hair", "<S>", "HH", "AY1", "<E>", "#low", "#voice"]
    assert caption_tokens("xylophone 你好") == []
    assert prompt_ids("<S>hi<E>", limit=4) == [IDS[t] for t in ("<S>", "HH", "AY1", "<E>")]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (
            "A girl wearing glasses, ginger hair, gray background",
            "a woman with glasses, red hair, grey background",
        ),
        ("a furious guy with blond hair", "a angry man with blonde hair"),
    ],
)
def test_other_words_and_spellings_of_a_caption_mean_the_same(written: str, meant: str) -> None:
    assert caption_tokens(written) == caption_tokens(meant)
    assert unknown_captions(written) == []


def test_every_other_word_means_a_caption_word_and_is_none() -> None:
    assert set(ALSO.values()) <= set(CAPTION_WORDS)
    assert not set(ALSO) & set(CAPTION_WORDS)


def test_what_is_left_out_of_a_prompt_is_named_once_in_its_order() -> None:
    assert left_out("a knight, red hair, a knight <S>go 你 home 😀<E> a low echo") == [
        "knight",
        "你",
        "😀",
        "echo",
    ]
    assert left_out("a woman <S>hello<E>") == left_out("") == []


def test_an_empty_prompt_has_no_tokens_for_guidance() -> None:
    assert prompt_ids("", limit=10) == []


@pytest.mark.parametrize("prompt", ["<S>hi", "hi<E>", "<E>hi<S>", "<S>hi<S>you<E>"])
def test_unpaired_tags_are_a_sentence(prompt: str) -> None:
    with pytest.raises(ValueError, match="every <S> needs one <E>"):
        prompt_tokens(prompt)


def test_too_long_a_prompt_names_how_much_fits() -> None:
    with pytest.raises(ValueError, match=r"makes \d+ tokens and 60 fit; say about 10 words"):
        prompt_ids(f"<S>{'potato ' * 20}<E>", limit=60)


@pytest.mark.parametrize(
    "prompt",
    ["<S>(hello:1.2)<E>", "<S>- (5:1.2)th of (may:0.8)!<E>", "a (man:2) (<S>hi<E>)", "(mumble:1.5)", ""],
)
def test_every_token_has_one_weight(prompt: str) -> None:
    assert len(token_weights(prompt)) == len(prompt_tokens(without_weights(prompt)))
