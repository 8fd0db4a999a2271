"""Guided attention: targets from known times, and a loss that falls when attention is where it should be."""

from __future__ import annotations

import torch

from unitalk_core.models.phonemes import IDS, prompt_ids
from unitalk_core.training.alignment import Guide, spoken_tokens, word_tokens

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
    words = [("hello", 0.1, 0.5), ("world", 0.6, 1.0)]
    target = spoken_tokens(ids, words, 12, 10.0)
    first, second = (group[0] for group in word_tokens(ids.tolist()))
    assert target.tolist() == [-1, *range(first, first + 4), -1, *range(second, second + 4), -1, -1]


def test_another_number_of_words_gives_no_target():
    ids = torch.tensor(prompt_ids(PROMPT, 64))
    assert (spoken_tokens(ids, [("hello", 0.0, 0.5)], 10, 10.0) == -1).all()


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
