"""The shared loop: learning rates that follow the size of a layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unitalk_core.training.loop import Budget, fit, parameter_groups


def layers() -> nn.Module:
    return nn.ModuleDict({"wide": nn.Conv1d(8, 4, 5), "narrow": nn.Linear(10, 4), "norm": nn.LayerNorm(400)})


def test_only_layers_that_sum_many_inputs_learn_slower():
    model = layers()
    groups = parameter_groups(model, width=10)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    slow = [group for group in groups if group["share"] != 1]
    assert [(group["share"], group["params"]) for group in slow] == [(0.25, [model["wide"].weight])]


def test_without_a_width_all_learn_alike():
    assert [group["share"] for group in parameter_groups(layers(), None)] == [1.0]


def test_the_share_reaches_the_optimizer():
    model = nn.ModuleDict({"wide": nn.Linear(100, 1, bias=False), "narrow": nn.Linear(1, 1, bias=False)})
    start = {name: layer.weight.detach().clone() for name, layer in model.items()}
    budget = Budget(steps=1, learning_rate=1e-2, warmup=1e-6, average=0.0, width=10)

    def losses() -> dict[str, torch.Tensor]:
        return {"loss": sum(layer.weight.sum() for layer in model.values())}

    trained = fit(model, budget, losses, None)
    moved = {name: (layer.weight - start[name]).abs().mean().item() for name, layer in trained.items()}
    assert moved["wide"] == pytest.approx(moved["narrow"] / 10, rel=0.01)
