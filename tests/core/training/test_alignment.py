"""Guided attention: targets from known times, and a loss that falls when attention is where it should be."""

from __future__ import annotations

import torch

from unitalk_core.data.speech import Mark
from unitalk_core.models.phonemes import IDS, PHONES, prompt_ids
from unitalk_core.training.alignment import IPA, Guide, phone_spans, spoken_tokens, word_tokens

PROMPT = "a woman <S>hello, world<E> a low female voice"


def test_words_are_the_stretches_between_boundaries_and_pauses():
    ids = prompt_ids(PROMPT, 64)
    groups = word_tokens(ids)
    assert len(groups) == 2
    assert [len(range(*group)) for group in groups] == [4, 4]
    assert ids[groups[0][0] - 1] == IDS["<S>"]
    assert word_tokens(prompt_ids("a woman", 64)) == []


def test_each_latent_speaks_the_phone_of_its_time():
    ids = torch.tensor(prompt_ids(PROMPT, 64))
    words = [
        [(0.1, 0.2), (0.2, 0.4), (0.4, 0.5), (0.5, 0.6)],
        [(0.7, 0.8), (0.8, 0.9), (0.9, 1.0), (1.0, 1.1)],
    ]
    target = spoken_tokens(ids, words, 12, 10.0)
    a, b = (group[0] for group in word_tokens(ids.tolist()))
    assert target.tolist() == [-1, a, a + 1, a + 1, a + 2, a + 3, -1, b, b + 1, b + 2, b + 3, -1]


def test_another_number_of_words_or_phones_gives_no_target():
    ids = torch.tensor(prompt_ids(PROMPT, 64))
    word = [(0.1 * i, 0.1 * i + 0.1) for i in range(4)]
    for words in ([word], [word, word[:3]]):
        assert (spoken_tokens(ids, words, 10, 10.0) == -1).all()


def test_phones_of_two_spellings_meet_at_the_same_sound():
    heard = [Mark("p", 0.0, 0.1), Mark("ˈɔːɹ", 0.1, 0.3), Mark("θ", 0.3, 0.4), Mark("əl", 0.4, 0.6)]
    spans = phone_spans(("P", "AO1", "R", "TH", "AH0", "L"), heard)
    expected = [(0.0, 0.1), (0.1, 0.2), (0.2, 0.3), (0.3, 0.4), (0.4, 0.5), (0.5, 0.6)]
    assert [tuple(round(edge, 6) for edge in span) for span in spans] == expected


def test_a_phone_the_dictionary_lacks_belongs_to_its_neighbour():
    heard = [Mark("ɚ", 0.0, 0.1), Mark("ɹ", 0.1, 0.2), Mark("ˈɛ", 0.2, 0.3)]
    assert phone_spans(("ER0", "EH1"), heard) == [(0.0, 0.2), (0.2, 0.3)]


def test_every_phone_of_the_miniature_has_a_sound():
    assert {token.rstrip("012") for token in PHONES} == set(IPA)


def test_the_loss_is_small_where_attention_is_right_and_ignores_silence():
    target = torch.tensor([[-1, 2, 3]])
    right = torch.full((1, 4, 3, 8), 1e-6)
    right[:, :, 1, 2] = right[:, :, 2, 3] = 1.0
    wrong = right.flip(-1)
    guide = Guide(8)
    losses = []
    for weights in (right, wrong):
        guide.seen = [weights]
        losses.append(guide.loss(target))
    assert losses[0] < 1e-3
    assert losses[1] > 4
    guide.seen = [wrong]
    assert guide.loss(torch.full((1, 3), -1)) == 0
