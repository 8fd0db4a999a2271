"""Golden cases: outputs of the reference implementations, with their weights, inputs and tolerances.

A directory holds `index.json` and the safetensors files it names (or the same files as `.xz`).
`UNITALK_GOLDENS` names another directory than the one beside this file. A parity test looks like this:

    @cases("mmaudio_mel")
    def test_mel(case):
        check(case, {"out.mel": ...})

`check` fails for every `out.*` tensor of the case that is neither given nor in `unchecked` with a reason.
"""

from __future__ import annotations

import json
import lzma
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load
from torch import Tensor

MANIFESTS = "state_dict_manifests.json"
BOUNDS = {"max_abs", "rel_l2", "exact", "exact_if", "dtype", "note"}


def directory() -> Path:
    return Path(os.environ.get("UNITALK_GOLDENS") or Path(__file__).parent / "goldens")


@cache
def index(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "index.json").read_text(encoding="utf-8"))


@cache
def _unpacked() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="goldens")


def _plain(path: Path) -> Path:
    """`path`, or `path`.xz unpacked for the rest of this run; FileNotFoundError if neither is there."""
    if path.is_file():
        return path
    packed = path.with_name(path.name + ".xz")
    if not packed.is_file():
        raise FileNotFoundError(f"{path} is named by index.json but neither it nor {packed.name} is there")
    target = Path(_unpacked().name) / path.name
    if not target.is_file():
        target.write_bytes(lzma.decompress(packed.read_bytes()))
    return target


@dataclass(frozen=True)
class Case:
    """One record of index.json and the files that belong to it."""

    folder: Path
    record: dict[str, Any]

    @property
    def name(self) -> str:
        return self.record["name"]

    @property
    def config(self) -> dict[str, Any]:
        return self.record["config"]

    @property
    def call(self) -> Any:
        return self.record.get("call")

    @property
    def data(self) -> Any:
        """Inputs and answers that are no tensors."""
        return self.record.get("data")

    @cached_property
    def io(self) -> dict[str, Tensor]:
        """Tensors `in.*` and `out.*`; empty for a case that has only `data`."""
        file = self.record["files"].get("io")
        return load(_plain(self.folder / file["file"]).read_bytes()) if file else {}

    @cached_property
    def weights_path(self) -> Path:
        """Under the reference's own names: this case's file, else the one its notes name, else its twin's."""
        if file := self.record["files"].get("weights"):
            return _plain(self.folder / file["file"])
        if named := re.search(r"[\w.+-]+\.weights\.safetensors", self.record.get("notes") or ""):
            return _plain(self.folder / named[0])
        for twin in all_cases(self.record["component"]):
            same = twin.config == self.config and twin.record["seed"] == self.record["seed"]
            if same and "weights" in twin.record["files"]:
                return twin.weights_path
        raise FileNotFoundError(f"{self.name} has no weights file, its notes name none, and no twin has one")

    def outputs(self) -> list[str]:
        return sorted(name for name in self.io if name.startswith("out."))


def manifests() -> dict[str, Any]:
    """Names and shapes of the published files: the directory's own table, else the stored one."""
    folders = (directory(), Path(__file__).parent / "goldens")
    path = next(folder / MANIFESTS for folder in folders if (folder / MANIFESTS).is_file())
    return json.loads(path.read_text(encoding="utf-8"))


def all_cases(component: str | None = None) -> list[Case]:
    folder = directory()
    records = index(folder)["cases"]
    return [Case(folder, one) for one in records if component in (None, one["component"])]


def cases(*components: str) -> pytest.MarkDecorator:
    """Run a test once per case of these components, in whatever directory is in use."""
    found = [case for component in components for case in all_cases(component)]
    return pytest.mark.parametrize("case", found, ids=[case.name for case in found])


def bounds(case: Case, name: str) -> dict[str, Any]:
    """The tolerance of one tensor: its own name, else the longest glob that fits, else "default"."""
    table = case.record["tolerance"]
    fits = [key for key in table if key == name or fnmatchcase(name, key)]
    key = max(fits, key=lambda one: (one == name, len(one))) if fits else "default"
    if key not in table:
        raise KeyError(f"{case.name} states no tolerance for {name}")
    if unknown := table[key].keys() - BOUNDS:
        raise KeyError(f"{case.name}: tolerance of {name} has unknown bounds {sorted(unknown)}")
    return table[key]


def faults(got: Tensor, want: Tensor, bound: Mapping[str, Any]) -> list[str]:
    """What is wrong with `got`, one line each; empty if every listed bound holds."""
    if got.shape != want.shape:
        return [f"shape {tuple(got.shape)} instead of {tuple(want.shape)}"]
    exact = bound.get("exact", False) or bound.get("exact_if") == str(want.dtype).removeprefix("torch.")
    if exact:
        same_kind = got.is_floating_point() == want.is_floating_point()
        return (
            [] if same_kind and torch.equal(got.to(want.dtype), want) else ["differs where equality is asked"]
        )
    wrong = []
    if "dtype" in bound and str(got.dtype) != f"torch.{bound['dtype']}":
        wrong.append(f"dtype {got.dtype} instead of {bound['dtype']}")
    got, want = got.detach().double(), want.double()
    error = (got - want).abs().max().item() if want.numel() else 0.0
    if "max_abs" in bound and not error <= bound["max_abs"]:
        wrong.append(f"max_abs {error:.3g} above {bound['max_abs']:g}")
    relative = ((got - want).norm() / want.norm().clamp_min(1e-30)).item()
    if "rel_l2" in bound and not relative <= bound["rel_l2"]:
        wrong.append(f"rel_l2 {relative:.3g} above {bound['rel_l2']:g}")
    if not bound.keys() & {"max_abs", "rel_l2"}:
        raise KeyError(f"a tolerance without a bound: {dict(bound)}")
    return wrong


def check(
    case: Case,
    got: Mapping[str, Tensor],
    *,
    valid: Mapping[str, Tensor] | None = None,
    unchecked: Mapping[str, str] | None = None,
) -> None:
    """Compare every `out.*` tensor of the case with `got`, each within its tolerance.

    valid: boolean masks by name; only the rows where the mask (over leading axes) is true are compared.
    unchecked: glob -> reason, for outputs that this project has no counterpart of.
    """
    valid, unchecked = valid or {}, unchecked or {}
    asked = [n for n in case.outputs() if not any(fnmatchcase(n, glob) for glob in unchecked) or n in got]
    if unasked := sorted(set(got) - set(asked)):
        pytest.fail(f"{case.name} has no {', '.join(unasked)}")
    if missing := sorted(set(asked) - set(got)):
        pytest.fail(f"{case.name}: never compared: {', '.join(missing)}")
    wrong = []
    for name in asked:
        ours, theirs = got[name], case.io[name]
        if name in valid:
            mask = valid[name].bool()
            ours, theirs = ours[mask], theirs[mask]
        wrong += [f"{name}: {fault}" for fault in faults(ours, theirs, bounds(case, name))]
    if wrong:
        pytest.fail(f"{case.name}:\n" + "\n".join(wrong))
