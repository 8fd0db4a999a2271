"""The solvers against those of Wan2.2 and diffusers, step by step."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from unitalk_core.av import AV
from unitalk_core.diffusion.samplers import SAMPLERS
from unitalk_core.diffusion.schedules import SCHEDULES, timesteps

from .goldens import Case, all_cases, cases, check

OURS = {"unipc": "unipc", "dpm++": "dpmpp_2m", "euler": "euler"}
WHOLE_TIMESTEPS = {"unipc", "dpm++"}


def solve(case: Case, run: dict[str, Any]) -> dict[str, Tensor]:
    """Sigmas, timesteps and the state after each step, for the velocity A x + b sin(0.01 t)."""
    a, b, x0 = (case.io[f"in.{name}"] for name in ("A", "b", "x0"))
    sigmas = SCHEDULES[OURS[run["solver"]]](run["steps"], run["shift"])
    told = timesteps(sigmas[:-1], run["solver"] in WHOLE_TIMESTEPS)
    states: list[Tensor] = []

    def denoise(x: AV, sigma: Tensor) -> AV:
        t = timesteps(sigma, run["solver"] in WHOLE_TIMESTEPS).to(x0.dtype)
        states.append(x.video)
        velocity = torch.einsum("ij,bcj->bci", a, x.video) + b * torch.sin(0.01 * t)
        return AV(x.video - sigma * velocity, None)

    options = {key.replace("solver_order", "order"): value for key, value in run["kwargs"].items()}
    out = SAMPLERS[OURS[run["solver"]]](denoise, AV(x0, None), sigmas, **options)
    assert out.audio is None
    return {"sigmas": sigmas, "timesteps": told, "x": torch.stack([*states, out.video])}


def runs(name: str) -> list[tuple[Case, dict[str, Any]]]:
    return [(case, run) for case in all_cases("flow_samplers") for run in (case.data or {}).get(name, [])]


@cases("flow_samplers")
def test_every_solver_follows_the_reference(case: Case) -> None:
    check(
        case,
        {
            f"out.{run['tag']}.{name}": value
            for run in case.config["cases"]
            for name, value in solve(case, run).items()
        },
    )


@pytest.mark.parametrize(
    ("case", "run"),
    runs("reference_produces_nonfinite"),
    ids=lambda one: one.get("tag") if isinstance(one, dict) else "",
)
def test_options_that_break_the_reference_end_in_the_last_estimate(case: Case, run: dict[str, Any]) -> None:
    states = solve(case, run)["x"]
    assert torch.isfinite(states).all()
    plain = solve(case, run | {"kwargs": {}})["x"]
    assert (states[-1] - plain[-1]).abs().max() < 0.1 * plain[-1].std()


@pytest.mark.parametrize(
    ("case", "run"),
    runs("duplicate_first_timestep_quirk"),
    ids=lambda one: f"{one['steps']}-{one['shift']:g}" if isinstance(one, dict) else "",
)
def test_colliding_timesteps_do_not_end_the_run(case: Case, run: dict[str, Any]) -> None:
    ours = solve(case, run | {"solver": "unipc", "kwargs": {}})
    first = ours["timesteps"][: len(run["first_timesteps"])].tolist()
    assert first == run["first_timesteps"]
    assert (first[0] == first[1]) == run["first_two_timesteps_equal"]
    assert all(now > following for now, following in pairwise(ours["sigmas"].tolist()))
    assert torch.isfinite(ours["x"]).all()
