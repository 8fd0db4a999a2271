"""UMT5 and Wan's text cleaning against the reference's outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from unitalk_core.models.text_encoder import UMT5Encoder, clean_text
from unitalk_core.weights.loading import load_text_encoder

from .goldens import Case, cases, check


@cases("text_cleaning")
def test_cleaning(case: Case) -> None:
    assert [clean_text(one["input"]) for one in case.data] == [one["output"] for one in case.data]


def position_buckets(encoder: UMT5Encoder, length: int) -> Tensor:
    """(query, key): the row of the position table that transformers takes for each pair."""
    attention = encoder.encoder.block[0].layer[0].SelfAttention
    places = torch.arange(length)
    return attention._relative_position_bucket(places[None, :] - places[:, None])


@cases("umt5")
def test_umt5(case: Case) -> None:
    encoder = load_text_encoder(case.weights_path)
    ids, mask = case.io["in.ids"], case.io["in.mask"]
    features = encoder(ids, mask)
    padded = features * mask.unsqueeze(-1)
    got = {"out.y": features, "out.y_trimmed_padded": padded, "out.y_transformers": features}
    got["out.pos_bucket"] = position_buckets(encoder, ids.shape[1]).to(torch.int32)
    asked = {name: one for name, one in got.items() if name in case.outputs()}
    valid = {name: mask for name in asked if name in ("out.y", "out.y_transformers")}
    check(case, asked, valid=valid)


@cases("umt5")
def test_encode_gives_what_the_transformer_receives(case: Case) -> None:
    """From token ids to zero rows beyond the text, whatever else is in the batch."""
    encoder = load_text_encoder(case.weights_path)
    ids, mask = case.io["in.ids"], case.io["in.mask"]
    rows = [row[: int(count)].tolist() for row, count in zip(ids, mask.sum(1), strict=True)]
    encoder.tokenize = lambda text: rows[int(text)]
    context = encoder.encode([str(i) for i in range(len(rows))])
    assert context.shape == (len(ids), 512, case.config["dim"])
    want = case.io["out.y_trimmed_padded"]
    torch.testing.assert_close(context[:, : want.shape[1]], want, atol=2e-5, rtol=1e-4)
    assert not context[:, int(mask.sum(1).max()) :].any()
