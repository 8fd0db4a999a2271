"""The shared loop: learning rates that follow the size of a layer."""

from __future__ import annotations

from torch import nn

from unitalk_core.training.loop import parameter_groups


def layers() -> nn.Module:
    return nn.ModuleDict({"wide": nn.Conv1d(8, 4, 5), "narrow": nn.Linear(10, 4), "norm": nn.LayerNorm(400)})


def test_only_layers_that_sum_many_inputs_learn_slower():
    model = layers()
    groups = parameter_groups(model, width=10)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    slow = [group for group in groups if group["share"] != 1]
    assert [(group["share"], group["params"]) for group in slow] == [(0.25, [model["wide"].weight])]


def test_without_a_width_all_learn_alike():
    assert [group["share"] for group in parameter_groups(layers())] == [1.0]
