"""Muon beside AdamW in one optimiser: who moves what, and that convolutions are matrices too."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from unitalk_core.training.loop import Budget, fit, optimizer_of
from unitalk_core.training.muon import MuonAdamW

ADAM = {"betas": (0.9, 0.98), "weight_decay": 0.0}


def two() -> tuple[nn.Conv1d, MuonAdamW]:
    """A convolution whose weight Muon moves, and whose bias AdamW moves."""
    torch.manual_seed(0)
    layer = nn.Conv1d(4, 6, 3)
    groups = [{"params": [layer.bias], "share": 1.0}, {"params": [layer.weight], "share": 20.0, "muon": True}]
    return layer, MuonAdamW(groups, **ADAM)


def step(layer: nn.Conv1d, optimizer: torch.optim.Optimizer, seed: int = 1) -> None:
    x = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(seed))
    for group in optimizer.param_groups:
        group["lr"] = group["share"] * 1e-3
    layer(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_a_matrix_moves_as_far_in_every_direction():
    layer, optimizer = two()
    before = layer.weight.detach().clone()
    step(layer, optimizer)
    sizes = torch.linalg.svdvals((layer.weight.detach() - before).flatten(1)) / 0.02
    assert sizes.min() > 0.5 and sizes.max() < 1.3
    assert layer.weight.grad is None and layer.bias.grad is None


def test_the_rest_moves_as_with_adamw_alone():
    layer, optimizer = two()
    twin = copy.deepcopy(layer)
    step(layer, optimizer)
    step(twin, torch.optim.AdamW([{"params": [twin.bias], "share": 1.0}], **ADAM))
    assert torch.equal(layer.bias, twin.bias)


def test_it_goes_on_from_its_state():
    """Moments are found by parameter, as a checkpoint wants them, and survive a state dict."""
    layer, optimizer = two()
    step(layer, optimizer)
    assert set(optimizer.state[layer.weight]) == {"momentum_buffer"}
    assert "exp_avg" in optimizer.state[layer.bias]
    twin = copy.deepcopy(layer)
    groups = [{"params": [twin.bias], "share": 1.0}, {"params": [twin.weight], "share": 20.0, "muon": True}]
    again = MuonAdamW(groups, **ADAM)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(layer, optimizer, 2)
    step(twin, again, 2)
    assert torch.equal(layer.weight, twin.weight) and torch.equal(layer.bias, twin.bias)


@pytest.mark.parametrize("muon", [0.0, 0.02])
def test_a_frozen_layer_stays(muon):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].requires_grad_(False)
    before = copy.deepcopy(model)
    budget = Budget(steps=3, muon=muon, autocast=False)
    held = sum(len(group["params"]) for group in optimizer_of(model, budget).param_groups)
    fit(model, budget, lambda: {"loss": model(torch.ones(1, 3)).square().sum()}, None)
    assert held == 2
    assert torch.equal(model[0].weight, before[0].weight)
    assert not torch.equal(model[1].weight, before[1].weight)
