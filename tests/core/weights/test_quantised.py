"""fp8 that stays fp8, in the layout of ComfyUI's layers of mixed precision."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from unitalk_core.weights.quantised import dequantise, in_fp8, quantise_fp8

FP8, LAYER = torch.float8_e4m3fn, "video_model.blocks.0.self_attn.q."


def plain() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {
        f"{LAYER}weight": torch.randn(6, 4, generator=draw),
        f"{LAYER}bias": torch.randn(6, generator=draw),
        "video_model.head.head.weight": torch.randn(4, 6, generator=draw),
        "video_model.blocks.0.norm3.weight": torch.ones(6),
    }


def scaled(mark: int = 0) -> dict[str, Tensor]:
    weight, scale = quantise_fp8(plain()[f"{LAYER}weight"])
    tensors = plain() | {f"{LAYER}weight": weight, f"{LAYER}scale_weight": scale}
    return tensors | {"scaled_fp8": torch.empty(mark, dtype=FP8)}


def note(tensors: dict[str, Tensor]) -> dict:
    return json.loads(bytes(tensors[f"{LAYER}comfy_quant"].tolist()))


def test_scaled_fp8_keeps_its_bits_and_its_scale() -> None:
    stored, held = scaled(), in_fp8(scaled())
    assert torch.equal(held[f"{LAYER}weight"].view(torch.uint8), stored[f"{LAYER}weight"].view(torch.uint8))
    assert torch.equal(held[f"{LAYER}weight_scale"], stored[f"{LAYER}scale_weight"])
    assert note(held) == {"format": "float8_e4m3fn"}
    assert held.keys() == {*plain(), f"{LAYER}weight_scale", f"{LAYER}comfy_quant"}
    assert torch.equal(dequantise(held)[f"{LAYER}weight"], dequantise(stored)[f"{LAYER}weight"])


@pytest.mark.parametrize(("fast", "full"), [(None, True), (False, True), (True, False)])
def test_a_file_that_forbids_products_in_fp8_is_heard(fast: bool | None, full: bool) -> None:
    assert note(in_fp8(scaled(mark=2), fast=fast)).get("full_precision_matrix_mult", False) is full


def test_fp8_without_scales_stays_and_is_multiplied_in_full() -> None:
    tensors = plain() | {f"{LAYER}weight": plain()[f"{LAYER}weight"].to(FP8)}
    held = in_fp8(tensors)
    assert held[f"{LAYER}weight"].dtype == FP8 and held[f"{LAYER}weight_scale"] == 1
    assert note(held)["full_precision_matrix_mult"]


def test_what_the_host_wrote_is_taken_as_it_is() -> None:
    held = in_fp8(scaled(), fast=False)
    again = in_fp8(held)
    assert again.keys() == held.keys() and note(again) == note(held)
    assert torch.equal(again[f"{LAYER}weight_scale"], held[f"{LAYER}weight_scale"])


def test_plain_matrices_become_fp8_only_when_asked_and_only_in_the_blocks() -> None:
    assert in_fp8(plain()).keys() == plain().keys()
    held = in_fp8(plain(), every=True, fast=True)
    assert [name for name, one in held.items() if one.dtype == FP8] == [f"{LAYER}weight"]
    torch.testing.assert_close(
        dequantise(held)[f"{LAYER}weight"].float(), plain()[f"{LAYER}weight"], rtol=0.07, atol=1e-2
    )


def test_a_scale_for_each_row_is_multiplied_out() -> None:
    tensors = scaled() | {f"{LAYER}scale_weight": torch.ones(6)}
    assert in_fp8(tensors)[f"{LAYER}weight"].dtype == torch.float16
