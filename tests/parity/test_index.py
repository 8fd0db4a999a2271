"""Nothing in the directory of goldens goes untested, and the comparison itself can fail."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch

from .goldens import Case, all_cases, bounds, check, directory, faults


def test_every_component_has_a_test() -> None:
    sources = "\n".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    tested = {
        name for call in re.findall(r"cases\((.*?)\)", sources) for name in re.findall(r'"([^"]+)"', call)
    }
    untested = {case.record["component"] for case in all_cases()} - tested
    assert not untested, f"no parity test takes {sorted(untested)}"


def test_every_output_has_a_tolerance_that_its_own_value_meets() -> None:
    for case in all_cases():
        for name in case.outputs():
            assert not faults(case.io[name], case.io[name], bounds(case, name)), f"{case.name} {name}"


@pytest.mark.skipif("UNITALK_GOLDENS" in os.environ, reason="another directory is in use")
def test_the_stored_goldens_are_small() -> None:
    assert sum(path.stat().st_size for path in directory().iterdir()) <= 12_000_000


def made_up(tolerance: dict) -> Case:
    record = {"name": "made up", "component": "none", "config": {}, "files": {}, "tolerance": tolerance}
    case = Case(Path(), record)
    case.__dict__["io"] = {"out.a": torch.ones(2, 3), "out.b": torch.tensor([1, 2])}
    return case


@pytest.mark.parametrize(
    ("tolerance", "a", "b", "says"),
    [
        ({"default": {"max_abs": 1e-3}}, torch.full((2, 3), 1.01), torch.tensor([1, 2]), "out.a: max_abs"),
        ({"default": {"rel_l2": 1e-3}}, torch.full((2, 3), 1.01), torch.tensor([1, 2]), "out.a: rel_l2"),
        ({"default": {"max_abs": 1}}, torch.full((2, 3), float("nan")), torch.tensor([1, 2]), "max_abs nan"),
        ({"default": {"max_abs": 1}}, torch.ones(3, 2), torch.tensor([1, 2]), r"shape \(3, 2\)"),
        (
            {"default": {"max_abs": 1}, "out.b": {"exact": True}},
            torch.ones(2, 3),
            torch.tensor([1, 3]),
            "out.b: differs",
        ),
        (
            {"out.?": {"exact_if": "int64", "max_abs": 1}},
            torch.ones(2, 3),
            torch.tensor([1.0, 2.0]),
            "out.b: differs",
        ),
        (
            {"out.*": {"max_abs": 1, "dtype": "float64"}},
            torch.ones(2, 3),
            torch.tensor([1, 2]),
            "dtype torch.float32",
        ),
    ],
)
def test_a_deviation_fails(tolerance: dict, a: torch.Tensor, b: torch.Tensor, says: str) -> None:
    with pytest.raises(pytest.fail.Exception, match=says):
        check(made_up(tolerance), {"out.a": a, "out.b": b})


def test_what_is_not_compared_fails() -> None:
    case = made_up({"default": {"max_abs": 1e-3}})
    with pytest.raises(pytest.fail.Exception, match=r"never compared: out\.b"):
        check(case, {"out.a": torch.ones(2, 3)})
    with pytest.raises(pytest.fail.Exception, match=r"has no out\.c"):
        check(case, {"out.a": torch.ones(2, 3), "out.b": torch.tensor([1, 2]), "out.c": torch.ones(1)})
    check(case, {"out.a": torch.ones(2, 3)}, unchecked={"out.b": "there is nothing like it here"})
    masked = torch.tensor([[1.0, 1, 1], [9, 9, 9]])
    check(
        case,
        {"out.a": masked, "out.b": torch.tensor([1, 2])},
        valid={"out.a": torch.tensor([True, False])},
    )


def test_an_unknown_bound_is_not_ignored() -> None:
    for tolerance in ({"default": {"cosine": 0.9}}, {"out.x": {"max_abs": 1}}, {"default": {"note": "none"}}):
        case = made_up(tolerance)
        with pytest.raises(KeyError):
            check(case, {"out.a": torch.ones(2, 3), "out.b": torch.tensor([1, 2])})
