"""Muon for weight matrices, AdamW for the rest, as one optimiser.

Muon: Jordan and others, 2024, github.com/KellerJordan/Muon; here that of torch, which takes matrices. So a
convolution is shown to it as one, with a row for each output channel.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn


class MuonAdamW(torch.optim.Optimizer):
    """`groups` as of AdamW; those with "muon": True hold matrices that Muon moves, at its own scale of rates.

    adam: betas, eps, weight_decay of the others. ValueError if there is nothing for one of the two.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], **adam: Any) -> None:
        plain = [group for group in groups if not group.get("muon")]
        turned = [group for group in groups if group.get("muon")]
        super().__init__([*plain, *turned], {"lr": 0.0})
        self.flat = {one: _flat(one) for group in turned for one in group["params"]}
        flat = [group | {"params": [self.flat[one] for one in group["params"]]} for group in turned]
        self.adamw = torch.optim.AdamW(plain, lr=0.0, **adam)
        self.muon = torch.optim.Muon(flat, lr=0.0, weight_decay=0.0)
        self._link()

    def _link(self) -> None:
        """Groups and moments are those of the two."""
        self.param_groups = [*self.adamw.param_groups, *self.muon.param_groups]
        plain = [one for group in self.adamw.param_groups for one in group["params"]]
        self.state = defaultdict(dict, {one: self.adamw.state[one] for one in plain})
        self.state |= {one: self.muon.state[flat] for one, flat in self.flat.items()}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # noqa: ARG002 - as torch has it
        for one, flat in self.flat.items():
            flat.grad = None if one.grad is None else one.grad.view_as(flat)
        self.adamw.step()
        self.muon.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.adamw.zero_grad(set_to_none)
        for one in self.flat:
            one.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {"adamw": self.adamw.state_dict(), "muon": self.muon.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.adamw.load_state_dict(state_dict["adamw"])
        self.muon.load_state_dict(state_dict["muon"])
        self._link()


def _flat(weight: nn.Parameter) -> nn.Parameter:
    """(rows, ...) -> (rows, columns), the same memory."""
    return nn.Parameter(weight.detach().view(len(weight), -1))
