"""The prompt each checkpoint was trained on, from three fields."""

from __future__ import annotations

import pytest

from unitalk_core.models.markup import (
    SOUND_FORMS,
    build_prompt,
    check_markup,
    weighted_parts,
    without_first_words,
    without_weights,
)
from unitalk_core.models.phonemes import prompt_tokens


@pytest.mark.parametrize(
    ("markup", "sound"),
    [
        ("unitalk", "<AUDCAP>rain<ENDAUDCAP>"),
        ("ovi-720", "<AUDCAP>rain<ENDAUDCAP>"),
        ("ovi-960", "Audio: rain"),
        ("phonemes", "rain"),
    ],
)
def test_each_checkpoint_gets_its_own_markup(markup: str, sound: str) -> None:
    assert build_prompt(markup, " a man ", "hi there", "rain\n") == f"a man <S>hi there<E> {sound}"


def test_sound_in_another_markup_than_the_models_is_refused() -> None:
    check_markup("unitalk", "ovi-720")  # the same form
    with pytest.raises(ValueError, match="written as ovi-720, and this model reads ovi-960; choose ovi-960"):
        check_markup("ovi-720", "ovi-960")


@pytest.mark.parametrize("markup", SOUND_FORMS)
def test_an_empty_part_leaves_no_trace(markup: str) -> None:
    assert build_prompt(markup, speech="hi") == "<S>hi<E>"
    assert build_prompt(markup, scene="a man") == "a man"
    assert "<S>" not in build_prompt(markup, scene="a man", sound="rain")


def test_the_miniature_reads_what_was_built() -> None:
    tokens = prompt_tokens(build_prompt("phonemes", "a man", "hi", "low voice"))
    assert tokens == ["#a", "#man", "<S>", "HH", "AY1", "<E>", "#low", "#voice"]


@pytest.mark.parametrize("markup", SOUND_FORMS)
def test_no_prompt_is_a_sentence(markup: str) -> None:
    with pytest.raises(ValueError, match="there is no prompt"):
        build_prompt(markup, " ", "\n", "")


@pytest.mark.parametrize("part", ["scene", "speech", "sound"])
@pytest.mark.parametrize("tag", ["<S>", "<E>", "<AUDCAP>", "<ENDAUDCAP>"])
def test_tags_in_a_part_are_refused_by_name(part: str, tag: str) -> None:
    with pytest.raises(ValueError, match=f"the {part} holds the tag {tag}"):
        build_prompt("unitalk", **{part: f"some {tag} text"})


def test_an_unknown_markup_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unitalk, ovi-720, ovi-960, phonemes, got 'sora'"):
        build_prompt("sora", "a man")


def test_the_first_words_of_a_speech_can_be_left_out():
    prompt = "a man <S>hello, there you<E> a deep voice"
    assert without_first_words(prompt, 0) == prompt
    assert without_first_words(prompt, 2) == "a man <S>you<E> a deep voice"
    assert without_first_words(prompt, 3) == "a man a deep voice"
    assert without_first_words("no tags here", 1) == "no tags here"


def test_brackets_with_a_number_after_a_colon_are_weights() -> None:
    parts = [("a ", 1.0), ("loud", 1.3), (" bell", 1.0)]
    assert weighted_parts("a (loud:1.3) bell") == parts
    assert without_weights("a (loud:1.3) (bell:2), (part 2:.5)") == "a loud bell, part 2"


@pytest.mark.parametrize(
    "text", ["(a, b)", "16:9 (16:9)", "at (10:30)", "(Paris:1999)", "(see: 2)", ":) (x:", "(<S>hi<E>:1.2)"]
)
def test_all_other_brackets_are_text(text: str) -> None:
    assert weighted_parts(text) == [(text, 1.0)]
