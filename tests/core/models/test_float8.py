"""Weights in a byte each: what a product of them is, and how a model comes to hold them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from unitalk_core.av import AV
from unitalk_core.config import UNITALK
from unitalk_core.footprint import transformer_bytes, weight_bytes
from unitalk_core.models.float8 import FLOAT8, LARGEST, Float8Linear, check_fast, hold_in_float8
from unitalk_core.models.mmdit import Hooks, JointDiT, initialise
from unitalk_core.offload import FileBlocks, load_around_blocks
from unitalk_core.weights.files import read_tensors, save_tensors
from unitalk_core.weights.loading import load_model
from unitalk_core.weights.lora import apply_lora
from unitalk_core.weights.quantised import dequantise, quantise_fp8

CPU = torch.device("cpu")
SMALL = replace(
    UNITALK,
    streams=UNITALK.streams.map(
        partial(replace, width=128, heads=1, depth=2, ffn_width=96, text_dim=32, text_len=8)
    ),
)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def layer(columns: int = 64, rows: int = 32, fast: bool = True) -> Float8Linear:
    torch.manual_seed(0)
    one = nn.Linear(columns, rows).requires_grad_(False)
    one.weight.mul_(torch.logspace(-3, 0, rows)[:, None])
    Float8Linear.take_over(one)
    one.fast = fast
    return one


def weight_of(one: Float8Linear) -> Tensor:
    return dequantise(one.state_dict(), torch.float32)["weight"]


def rounded(x: Tensor) -> Tensor:
    """Each token to float8, by its largest number."""
    scale = x.float().abs().amax(-1, keepdim=True) / LARGEST
    return (x.float() / scale).to(FLOAT8).float() * scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fast_product_is_that_of_tokens_rounded_each_by_its_own_scale(dtype: torch.dtype):
    one, x = layer(), (torch.randn(2, 5, 64) * torch.logspace(-2, 2, 5)[:, None]).to(dtype)
    out = one(x)
    exact = rounded(x) @ weight_of(one).T + one.bias
    assert out.dtype == dtype and out.shape == (2, 5, 32)
    torch.testing.assert_close(out.float(), exact, rtol=1 / 64, atol=1e-3)
    held = layer(fast=False)(x)
    assert 0.01 < (out - held).norm() / held.norm() < 0.06  # .028 measured


def test_a_silent_token_gives_the_bias_and_no_nan():
    one = layer()
    torch.testing.assert_close(one(torch.zeros(1, 3, 64)), one.bias.expand(1, 3, 32))


@pytest.mark.parametrize(("columns", "rows"), [(64, 24), (40, 32)])
def test_sides_that_the_fast_product_cannot_take_are_multiplied_as_held(columns: int, rows: int):
    x = torch.randn(3, columns)
    assert torch.equal(layer(columns, rows)(x), layer(columns, rows, fast=False)(x))


def test_while_something_learns_nothing_is_rounded():
    x = torch.randn(3, 64)
    with torch.enable_grad():
        assert torch.equal(layer()(x), layer(fast=False)(x))


def test_an_older_pytorch_is_told_before_work_starts(monkeypatch: pytest.MonkeyPatch):
    check_fast(CPU)
    monkeypatch.delattr(torch.nn.functional, "scaled_mm")
    with pytest.raises(ValueError, match=r"cpu cannot multiply in fp8 with PyTorch .* take fp8_e4m3fn"):
        check_fast(CPU)


# --- models -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained() -> dict[str, Tensor]:
    model = JointDiT(SMALL)
    initialise(model, seed=0)
    torch.manual_seed(0)
    return {name: one.detach() + 0.02 * torch.randn_like(one) for name, one in model.state_dict().items()}


@pytest.fixture
def plain_file(trained: dict[str, Tensor], tmp_path: Path) -> Path:
    path = tmp_path / "plain.safetensors"
    save_tensors(path, {name: one.bfloat16() for name, one in trained.items()})
    return path


@pytest.fixture
def scaled_file(trained: dict[str, Tensor], tmp_path: Path) -> Path:
    """As ComfyUI publishes it: the matrices of the blocks in fp8 beside a scale each."""
    tensors: dict[str, Tensor] = {"scaled_fp8": torch.empty(2, dtype=FLOAT8)}
    for name, one in trained.items():
        tensors[name] = one.bfloat16()
        if ".blocks." in name and one.ndim == 2:
            tensors[name], tensors[name.removesuffix("weight") + "scale_weight"] = quantise_fp8(one)
    path = tmp_path / "scaled.safetensors"
    save_tensors(path, tensors)
    return path


def velocity(model, hooks: Hooks | None = None) -> AV[Tensor]:
    draw = torch.Generator().manual_seed(1)
    latent = AV(torch.randn(1, 48, 2, 4, 4, generator=draw), torch.randn(1, 40, 9, generator=draw))
    text, time = torch.randn(1, 5, 32, generator=draw).bfloat16(), torch.tensor([500.0])
    options = {} if hooks is None else {"hooks": hooks}
    return model(latent.map(Tensor.bfloat16), AV(time, time), AV(text, text), **options)


def off(one: AV[Tensor], other: AV[Tensor]) -> float:
    pairs = zip(one.present(), other.present(), strict=True)
    return max(((a - b).float().norm() / b.float().norm()).item() for a, b in pairs)


def test_matrices_that_a_file_has_in_fp8_keep_their_bits(scaled_file: Path):
    model, config = load_model(scaled_file, dtype=torch.bfloat16, float8="held")
    stored, state = read_tensors(scaled_file), model.state_dict()
    eight = [name for name, one in stored.items() if one.dtype == FLOAT8 and name != "scaled_fp8"]
    assert len(eight) == 2 * 2 * (4 + 4 + 2 + 2)  # streams, blocks: self, text, voice, FFN
    for name in eight:
        assert torch.equal(state[name].view(torch.uint8), stored[name].view(torch.uint8)), name
        scale = stored[name.removesuffix("weight") + "scale_weight"]
        assert torch.equal(state[f"{name}_scale"], scale.expand(len(stored[name])))
    assert {one.dtype for name, one in model.named_parameters() if name not in eight} == {torch.bfloat16}
    assert config.streams.video.width == 128


@pytest.mark.parametrize("how", ["held", "fast"])
def test_a_model_in_fp8_nearly_makes_what_it_makes_in_bf16(plain_file: Path, scaled_file: Path, how: str):
    whole = velocity(load_model(plain_file, dtype=torch.bfloat16)[0])
    for path in (plain_file, scaled_file):
        small = velocity(load_model(path, dtype=torch.bfloat16, float8=how)[0])
        assert 0.002 < off(small, whole) < 0.1


def test_what_is_counted_before_loading_is_what_it_holds(plain_file: Path):
    model, config = load_model(plain_file, dtype=torch.bfloat16, float8="held")
    counted = transformer_bytes(config, torch.bfloat16, "held")
    assert counted == weight_bytes(model) < 0.7 * transformer_bytes(config, torch.bfloat16)


@pytest.mark.parametrize("how", ["held", "fast"])
@pytest.mark.parametrize("kind", ["plain_file", "scaled_file"])
def test_blocks_that_come_from_the_file_in_fp8_are_those_of_the_whole_model(kind, how, request):
    path = request.getfixturevalue(kind)
    whole, config = load_model(path, dtype=torch.bfloat16, float8=how)
    blocks = FileBlocks([path], torch.bfloat16, CPU, how)
    streamed = velocity(load_around_blocks(config, blocks), Hooks(run_block=blocks.run))
    assert off(streamed, velocity(whole)) == 0


def test_a_lora_on_weights_in_fp8_is_refused_before_anything_changes(plain_file: Path):
    name = "audio_model.blocks.0.self_attn.q"
    lora = {f"diffusion_model.{name}.lora_up.weight": torch.ones(128, 2),
            f"diffusion_model.{name}.lora_down.weight": torch.ones(2, 128)}  # fmt: skip
    model = load_model(plain_file, dtype=torch.bfloat16)[0].requires_grad_(False)
    apply_lora(model, lora, 1.0, "l.safetensors")
    hold_in_float8(model)
    before = model.state_dict()[f"{name}.weight"].clone()
    with pytest.raises(ValueError, match=r"l.safetensors changes audio_model.* held in fp8; take bf16, or"):
        apply_lora(model, lora, 1.0, "l.safetensors")
    assert torch.equal(model.state_dict()[f"{name}.weight"].view(torch.uint8), before.view(torch.uint8))
