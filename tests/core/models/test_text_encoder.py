"""Context from text: zero beyond it, the same in any batch, and honest about vocabularies and tokenizers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from unitalk_core.models.phonemes import IDS, VOCABULARY, prompt_tokens, vocabulary_hash
from unitalk_core.models.text_encoder import (
    PhonemeConfig,
    PhonemeEncoder,
    UMT5Config,
    UMT5Encoder,
    clean_text,
    folder_tokenizer,
    sentencepiece_tokenizer,
)

SMALL = UMT5Config(
    vocabulary=64,
    dim=16,
    attention_dim=24,
    ffn_width=20,
    heads=3,
    depth=2,
    buckets=8,
    max_distance=16,
    text_len=32,
)


@pytest.fixture(scope="module")
def phonemes() -> PhonemeEncoder:
    torch.manual_seed(0)
    return PhonemeEncoder().eval()


@torch.no_grad()
def test_rows_beyond_the_text_are_zero_and_an_empty_prompt_is_all_zero(phonemes: PhonemeEncoder) -> None:
    context = phonemes.encode(["a man <S>hi<E>", ""])
    assert context.shape == (2, phonemes.config.text_len, phonemes.dim)
    assert context[0, :6].any(dim=-1).all() and not context[0, 6:].any()
    assert not context[1].any()


@torch.no_grad()
def test_a_text_is_encoded_the_same_beside_any_other(phonemes: PhonemeEncoder) -> None:
    texts = ["<S>hi<E>", "a woman <S>one hundred potatoes, please!<E> low voice"]
    both = phonemes.encode(texts)
    alone = torch.cat([phonemes.encode([text]) for text in texts])
    torch.testing.assert_close(both, alone)
    ids = phonemes.tokenize(texts[:1])[:, :4]
    torch.testing.assert_close(phonemes(ids), both[:1, :4])


@torch.no_grad()
def test_a_weight_scales_the_features_of_its_words_and_is_not_spoken(phonemes: PhonemeEncoder) -> None:
    plain, weighted = phonemes.encode(
        ["a woman <S>hello melody, bye<E> voice", "a (woman:0.5) <S>hello (melody:1.5), bye<E> voice"]
    )
    ratio = (weighted / plain)[plain.any(-1)].median(-1).values
    tokens = prompt_tokens("a woman <S>hello melody, bye<E> voice")
    melody = tokens.index("OW1") + 1  # with the boundary before it
    expected = torch.ones(len(tokens))
    expected[1], expected[melody : tokens.index(",")] = 0.5, 1.5
    torch.testing.assert_close(ratio, expected)


@torch.no_grad()
def test_order_and_stress_matter(phonemes: PhonemeEncoder) -> None:
    ab, ba = phonemes.encode(["<S>potato balcony<E>", "<S>balcony potato<E>"])
    assert (ab - ba).abs().max() > 0.1
    ids = phonemes.tokenize(["<S>hi<E>"])
    other = ids.clone()
    other[0, 2] += 1  # AY1 -> AY2
    assert (phonemes(ids) - phonemes(other)).abs().max() > 0.1


def test_it_trains_and_is_small(phonemes: PhonemeEncoder) -> None:
    assert 0.5e6 < sum(one.numel() for one in phonemes.parameters()) < 1e6
    phonemes.encode(["a man <S>hi there, now<E>"]).square().sum().backward()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in phonemes.parameters())


def test_the_configuration_stores_the_vocabulary_and_refuses_another() -> None:
    stored = PhonemeConfig(dim=64).to_json()
    assert stored["vocabulary"] == vocabulary_hash()
    assert PhonemeConfig.from_json(stored).dim == 64
    with pytest.raises(ValueError, match="needs vocabulary 0123456789ab"):
        PhonemeConfig.from_json(stored | {"vocabulary": "0123456789ab"})
    with pytest.raises(ValueError, match="dim must be even and kernel odd"):
        PhonemeConfig(dim=63)


@torch.no_grad()
def test_weights_from_before_a_caption_word_leave_it_out(caplog: pytest.LogCaptureFixture) -> None:
    """A vocabulary grows at its end: older weights have fewer rows, and read a new word as nothing."""
    older = PhonemeEncoder(PhonemeConfig(vocabulary=vocabulary_hash(IDS["#happy"]))).eval()
    assert len(older.embedding.weight) == IDS["#happy"] < len(VOCABULARY)
    assert older.config.to_json()["vocabulary"] == older.config.vocabulary
    happy = older.encode(["a happy man <S>hi<E>"])
    assert "do not know it: #happy" in caplog.text
    assert not happy[0, 1].any() and happy[0, 2].any()


def test_a_prompt_that_cannot_be_spoken_or_does_not_fit_says_so(phonemes: PhonemeEncoder) -> None:
    with pytest.raises(ValueError, match="can be spoken"):
        phonemes.encode(["<S>你好<E>"])
    with pytest.raises(ValueError, match="fit; say about"):
        phonemes.encode([f"<S>{'potato ' * 60}<E>"])


def umt5(pieces: bytes) -> UMT5Encoder:
    torch.manual_seed(0)
    return UMT5Encoder(SMALL, sentencepiece_tokenizer(pieces)).eval()


@torch.no_grad()
def test_umt5_pads_with_zeros_and_ignores_its_neighbours(pieces: bytes) -> None:
    encoder = umt5(pieces)
    texts = ["hello", "a man says hello to the world"]
    both = encoder.encode(texts)
    assert both.shape == (2, 32, 16)
    for text, row in zip(texts, both, strict=True):
        count = len(encoder.tokenize(text))
        assert row[:count].any(dim=-1).all() and not row[count:].any()
        torch.testing.assert_close(row, encoder.encode([text])[0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_umt5_cleans_and_cuts_at_its_length_with_eos_last(pieces: bytes) -> None:
    encoder = umt5(pieces)
    assert torch.equal(encoder.encode(["  hello &amp;amp;  world\n"]), encoder.encode(["hello & world"]))
    seen = []
    encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    long = encoder.encode(["hello world " * 40])
    assert seen[0].shape == (1, 32) and seen[0][0, -1] == 1
    assert long[0, -1].any()
    assert encoder.encode([""]).any(dim=-1).sum() == 1  # the end token alone


def test_umt5_names_are_those_of_transformers_without_the_copy() -> None:
    names = UMT5Encoder(SMALL).state_dict()
    assert "shared.weight" in names and "encoder.embed_tokens.weight" not in names
    assert names["encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"].shape == (8, 3)


def test_sizes_are_read_from_weights() -> None:
    tensors = UMT5Encoder(SMALL).state_dict()
    got = UMT5Config.from_tensors(tensors, text_len=32)
    assert got == UMT5Config(**vars(SMALL) | {"max_distance": 128})
    with pytest.raises(ValueError, match=r"no UMT5 encoder: shared\.weight"):
        UMT5Config.from_tensors({})


def test_without_a_tokenizer_it_says_what_to_load() -> None:
    with pytest.raises(ValueError, match="has no tokenizer"):
        UMT5Encoder(SMALL).encode(["hello"])


def test_tokenizers_come_from_bytes_tensors_and_folders(pieces: bytes, tmp_path: Path) -> None:
    ids = sentencepiece_tokenizer(pieces)("hello world")
    assert ids[-1] == 1 and 0 not in ids
    tensor = torch.frombuffer(bytearray(pieces), dtype=torch.uint8)
    assert sentencepiece_tokenizer(tensor)("hello world") == ids
    (tmp_path / "spiece.model").write_bytes(pieces)
    assert folder_tokenizer(tmp_path)("hello world") == ids
    with pytest.raises(ValueError, match="no SentencePiece model"):
        sentencepiece_tokenizer(b"nonsense")
    with pytest.raises(FileNotFoundError, match="no tokenizer folder"):
        folder_tokenizer(tmp_path / "missing")


def test_cleaning_repairs_and_collapses() -> None:
    assert clean_text("  It&amp;#39;s \t ｆｉｎｅ\n") == "It's fine"
