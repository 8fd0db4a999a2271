"""Text cleaning and the UMT5 encoder against Wan2.2."""

from __future__ import annotations

import torch

from unitalk_core.models.text_encoder import UMT5Encoder, clean_text
from unitalk_core.weights.loading import load_text_encoder

from .goldens import Case, cases, check


@cases("text_cleaning")
def test_text_is_cleaned_as_wan_cleans_it(case: Case) -> None:
    assert case.config == {"clean": "whitespace"}
    assert {row["input"]: clean_text(row["input"]) for row in case.data} == {
        row["input"]: row["output"] for row in case.data
    }


def buckets(encoder: UMT5Encoder, length: int) -> torch.Tensor:
    """Which position bucket each (query, key) falls into."""
    attention = encoder.encoder.block[0].layer[0].SelfAttention
    positions = torch.arange(length)
    return attention._relative_position_bucket(positions[None] - positions[:, None])


@cases("umt5")
def test_the_encoder_gives_wans_features(case: Case) -> None:
    encoder = load_text_encoder(case.weights_path)
    ids, mask = case.io["in.ids"], case.io["in.mask"]
    features = encoder(ids, mask)
    got = {
        "out.y": features,
        "out.y_transformers": features,
        "out.y_trimmed_padded": features * mask[..., None],
        "out.pos_bucket": buckets(encoder, len(case.io["out.pos_bucket"])),
    }
    check(case, got, valid={"out.y": mask, "out.y_transformers": mask})


@cases("umt5")
def test_what_the_transformer_receives_is_zero_beyond_the_text(case: Case) -> None:
    encoder = load_text_encoder(case.weights_path)
    ids, mask = case.io["in.ids"], case.io["in.mask"]
    rows = {str(i): row[on.bool()].tolist() for i, (row, on) in enumerate(zip(ids, mask, strict=True))}
    encoder.tokenize = rows.__getitem__
    context = encoder.encode(list(rows))
    length = ids.shape[1]
    torch.testing.assert_close(context[:, :length], case.io["out.y_trimmed_padded"], atol=2e-5, rtol=1e-5)
    assert context.shape[1] == encoder.config.text_len and not context[:, length:].any()
