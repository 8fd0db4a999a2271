"""UMT5 as it is published, through UniTalk Load Text Encoder in a real ComfyUI."""

from __future__ import annotations

import pytest

PARITY = 1e-4  # relative, host against core: the order of float32 sums differs


def test_every_published_umt5_gives_the_conditioning_of_its_numbers(measured):
    found = measured("text_encoders")
    assert found["plain"] == [True, True]  # the authors' .pth and Diffusers' shards, beside ComfyUI's fp16
    assert max(found["core"]) < PARITY
    assert found["again"] and found["listed"] and found["on the cpu"] == "cpu"


def test_comfyuis_own_files_are_read_bit_for_bit_as_the_stock_loader_reads_them(measured):
    found = measured("text_encoders")
    assert found["stock"] == [True, True]  # fp16, and fp8 that stays fp8
    assert found["fp8"] > 0


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        (
            "alone/t5.pth",
            "has no tokenizer inside and none beside it; put Wan's google/umt5-xxl",
        ),
        ("other/t5.pth", "other/spiece.model is no SentencePiece model; fetch it again"),
        ("larger/t5.pth", "spiece.model has 20 pieces, and"),
        (
            "small.safetensors",
            "is a UMT5 of 2 blocks with an FFN of 10240; talking clips are read by",
        ),
        ("lacking.pth", "1 missing ['encoder.block.7.layer.1.DenseReluDense.wo.weight']"),
        ("vae.safetensors", "holds no text encoder but nothing this project knows; looked for UMT5 (Wan)"),
    ],
)
def test_what_is_no_text_encoder_or_not_whole_is_named(measured, file, sentence):
    assert sentence in measured("wrong_text_encoders")[file]
