"""What saves memory changes neither loss nor gradient; eight bits change them by a known little."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from unitalk_core.av import AV
from unitalk_core.config import TINY
from unitalk_core.models.attention import sdpa
from unitalk_core.models.float8 import Float8Linear, hold_in_float8
from unitalk_core.models.mmdit import PLAIN, Hooks, JointDiT, initialise
from unitalk_core.training.alignment import Guide
from unitalk_core.training.hooks import training_hooks
from unitalk_core.training.memory import checkpointed, offloaded, wait_on_host
from unitalk_core.weights.lora import add_lora, is_lora
from unitalk_core.weights.quantised import dequantise

CPU = torch.device("cpu")
DEPTH = 4


def small(width: int = 48) -> JointDiT:
    size = {"width": width, "heads": 2, "depth": DEPTH, "ffn_width": 64, "text_dim": 32, "text_len": 16}
    model = JointDiT(replace(TINY, streams=TINY.streams.map(lambda stream: replace(stream, **size))))
    initialise(model, 0)
    generator = torch.Generator().manual_seed(0)
    for stream in model.streams.present():
        stream.head.head.weight.data.normal_(std=0.02, generator=generator)
    return model


def with_lora(model: JointDiT) -> JointDiT:
    names = [name for name, one in model.named_modules() if isinstance(one, nn.Linear) and ".blocks." in name]
    add_lora(model, names, rank=4, alpha=4.0, seed=0)
    generator = torch.Generator().manual_seed(0)
    for name, one in model.named_parameters():
        one.requires_grad_(is_lora(name))
        if "lora_up" in name:
            one.data.normal_(std=0.02, generator=generator)
    return model


def loss_of(model: JointDiT, hooks: Hooks = PLAIN, guide: Guide | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    randn = partial(torch.randn, generator=generator)
    latent, reference = AV(randn(2, 48, 2, 4, 4), randn(2, 20, 6)), randn(2, 5, 20)
    context, timestep = randn(2, 16, 32), torch.tensor([100.0, 500.0])
    conditions = AV(context, context), AV(reference, reference)
    out = model(latent, AV(timestep, timestep), *conditions, hooks=guide.around(hooks) if guide else hooks)
    loss = sum((one * randn(one.shape)).sum() for one in out.present())
    if guide is not None:
        loss = loss + 1000 * guide.loss(torch.arange(6).expand(2, -1)).sum()
    return loss


def gradients(model: JointDiT, loss: Tensor) -> dict[str, Tensor]:
    loss.backward()
    return {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


def held(model: nn.Module) -> int:
    """Bytes of all weights."""
    return sum(one.numel() * one.element_size() for one in model.state_dict().values())


def kept_for_backward(model: JointDiT, hooks: Hooks) -> int:
    """Bytes that autograd keeps between forward and backward, beside the weights."""
    sizes: dict[int, int] = {}
    own = {one.untyped_storage().data_ptr() for one in model.parameters()}

    def pack(one: Tensor) -> Tensor:
        if (storage := one.untyped_storage()).data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return one

    with saved_tensors_hooks(pack, lambda one: one):
        loss = loss_of(model, hooks)
    del loss
    return sum(sizes.values())


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        assert torch.equal(gradient, other[name]), name


WAYS = {"checkpointed": checkpointed, "offloaded": partial(offloaded, device=CPU)}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["full", "lora", "float8"])
@pytest.mark.parametrize("inner", [PLAIN, training_hooks(False, sdpa)], ids=["plain", "one mask"])
def test_loss_and_gradients_are_bit_for_bit_those_of_the_plain_model(way, kind, inner):
    plain, saving = (small() if kind == "full" else with_lora(small()) for _ in range(2))
    for model in (plain, saving) if kind == "float8" else ():
        hold_in_float8(model)
    expected, loss = loss_of(plain, inner), loss_of(saving, WAYS[way](inner))
    assert torch.equal(loss, expected)
    assert_equal(gradients(saving, loss), gradients(plain, expected))


@pytest.mark.parametrize("way", WAYS)
def test_the_guide_sees_its_blocks_once_and_adds_its_gradient(way):
    plain, saving = small(), small()
    guides = Guide(16), Guide(16)
    expected, loss = loss_of(plain, PLAIN, guides[0]), loss_of(saving, WAYS[way](PLAIN), guides[1])
    assert torch.equal(loss, expected)
    assert_equal(gradients(saving, loss), gradients(plain, expected))
    assert guides[1].seen == []


def test_checkpointing_keeps_the_input_of_a_block_and_nothing_inside():
    model = small()
    plain, saving = kept_for_backward(model, PLAIN), kept_for_backward(model, checkpointed(PLAIN))
    assert saving < 0.35 * plain


# --- blocks that wait ------------------------------------------------------------------------------------


def test_a_block_that_waits_runs_on_copies_that_do_not_stay():
    model, alive = small(), []

    def run_block(index: int, block: partial, state: AV) -> AV:
        one = model.audio_model.blocks[index].ffn[0].weight
        alive.append((index, weakref.ref(one), one is waiting[index]))
        return block(state)

    waiting = {i: block.ffn[0].weight for i, block in enumerate(model.audio_model.blocks)}
    loss = loss_of(model, offloaded(Hooks(run_block=run_block), CPU))
    gc.collect()
    assert [(index, same) for index, _, same in alive] == [(i, False) for i in range(DEPTH)]
    assert not any(copy() is not None for _, copy, _ in alive)
    loss.backward()
    assert [index for index, _, _ in alive] == [*range(DEPTH), *reversed(range(DEPTH))]
    assert all(one is model.audio_model.blocks[i].ffn[0].weight for i, one in waiting.items())
    assert all(one.grad is not None for one in waiting.values())


def test_everything_but_the_blocks_goes_to_the_device():
    model = small()
    wait_on_host(model, torch.device("meta"))
    for name, one in model.named_parameters():
        assert one.is_meta == (".blocks." not in name), name


# --- eight bits ------------------------------------------------------------------------------------------


def float8(rows: int = 24, columns: int = 512, bias: bool = True) -> tuple[nn.Linear, Float8Linear]:
    """The same frozen layer twice; its rows differ a thousandfold, and one is zero."""
    generator = torch.Generator().manual_seed(0)
    layers = [nn.Linear(columns, rows, bias=bias).requires_grad_(False) for _ in range(2)]
    weight = torch.randn(rows, columns, generator=generator) * torch.logspace(-3, 0, rows)[:, None]
    weight[5] = 0
    for layer in layers:
        layer.weight.copy_(weight)
        if bias:
            layer.bias.copy_(torch.arange(float(rows)))
    Float8Linear.take_over(layers[1])
    return layers[0], layers[1]


def test_a_row_keeps_its_values_within_what_three_bits_of_mantissa_can_say():
    plain, small_one = float8()
    weight = dequantise(small_one.state_dict(), torch.float32)["weight"]
    off = (weight - plain.weight).norm(dim=1) / plain.weight.norm(dim=1).clamp(min=1e-9)
    assert 0.02 < off.max() < 0.03  # measured .0265
    assert not weight[5].any()


def test_the_layer_is_that_of_its_dequantised_weights_forward_and_backward():
    _, layer = float8()
    weight = dequantise(layer.state_dict(), torch.float32)["weight"]
    generator = torch.Generator().manual_seed(1)
    x, grad = (torch.randn(2, 7, size, generator=generator) for size in (512, 24))
    x.requires_grad_()
    out = layer(x)
    torch.testing.assert_close(out, nn.functional.linear(x, weight, layer.bias), rtol=1e-5, atol=1e-5)
    out.backward(grad)
    torch.testing.assert_close(x.grad, grad @ weight, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("autocast", [True, False])
def test_the_layer_computes_in_the_dtype_of_its_input_or_of_autocast(bias, autocast):
    plain, layer = float8(bias=bias)
    x = torch.randn(3, 512, generator=torch.Generator().manual_seed(1))
    x = x.to(torch.float32 if autocast else torch.bfloat16).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out, expected = layer(x), plain.to(torch.float32 if autocast else torch.bfloat16)(x)
    assert out.dtype == expected.dtype == torch.bfloat16
    out.sum().backward()
    assert x.grad.dtype == x.dtype
    assert (out - expected).norm() / expected.norm() < 0.06


def test_no_copy_in_full_precision_is_kept_for_the_backward_pass():
    _, layer = float8()
    kept: list[Tensor] = []
    with saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        layer(torch.randn(1, 512, requires_grad=True))
    assert sorted((one.dtype, one.numel()) for one in kept if one.numel() >= 24 * 512) == [
        (torch.float8_e4m3fn, 24 * 512)
    ]


def test_a_quarter_of_the_bytes_remains_and_lora_learns_nearly_the_same():
    plain, eight = (with_lora(small(width=192)) for _ in range(2))
    before = {name: one.clone() for name, one in plain.named_parameters() if is_lora(name)}
    hold_in_float8(eight)
    blocks = [stream.blocks for stream in eight.streams.present()]
    layers = [one for part in blocks for one in part.modules() if isinstance(one, Float8Linear)]
    assert len(layers) == DEPTH * (4 + 4 + 2 + 4 + 6 + 2)  # attentions and FFN of picture and sound
    full = sum(4 * one.weight.numel() for one in layers)
    saved = full - sum(one.weight.numel() + 4 * len(one.weight_scale) for one in layers)
    assert held(plain) - held(eight) == saved
    assert saved / full == pytest.approx(0.745, abs=0.005)
    for name, one in eight.named_parameters():
        assert not is_lora(name) or torch.equal(one, before[name])
    losses = loss_of(plain), loss_of(eight)
    wanted, found = gradients(plain, losses[0]), gradients(eight, losses[1])
    assert found.keys() == wanted.keys() == before.keys()
    off = sum((found[name] - one).square().sum() for name, one in wanted.items())
    assert (off / sum(one.square().sum() for one in wanted.values())).sqrt() < 0.08  # measured .04


def test_what_learns_stays_in_full_precision():
    model = small()
    for name, one in model.named_parameters():
        one.requires_grad_(".ffn." in name)
    hold_in_float8(model)
    for name, one in model.named_modules():
        if isinstance(one, nn.Linear):
            small_one = ".blocks." in name and ".ffn." not in name
            assert isinstance(one, Float8Linear) == small_one, name
