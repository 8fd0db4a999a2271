"""A training run from outside: begun in a child process, found again, gone on with, or only looked at.

What a run is stands in its folder, so it does not matter who began it: a run that still goes is followed, one
that ended early goes on at its last checkpoint, and one that is done is not done again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..child import Child
from ..data.cache import INDEX, Cache
from .checkpoints import resumable
from .claim import begun, stored_config
from .config import WATCHING, TrainConfig, read_config
from .metrics import FILE, STATE_FILE, Record, State, parsed, read_state
from .run import CURVES
from .validation import FOLDER as SAMPLES

LOG = "log.txt"
LAST_LINES = 8192  # bytes of metrics.jsonl that hold its last line
SHOWN = 3  # settings that are named when they differ


@dataclass(frozen=True, kw_only=True)
class Order:
    """A run that is wanted. changes: `key=value` on top of the preset; env: more variables for the child."""

    preset: str
    data: Path
    out: Path
    changes: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)

    def arguments(self, resume: bool) -> list[str]:
        changes = [part for change in self.changes for part in ("--set", change)]
        given = ["train", self.preset, "--data", str(self.data), "--out", str(self.out), *changes]
        return [*given, "--resume"] if resume else given


@dataclass(frozen=True)
class Look:
    """How a run stands. record: its last step; sample, curves: its newest pictures; None: not yet there."""

    state: State | None
    record: Record | None
    sample: Path | None
    curves: Path | None


def look(out: Path) -> Look:
    curves = out / CURVES
    return Look(read_state(out), last_record(out), newest_sample(out), curves if curves.is_file() else None)


def last_record(out: Path) -> Record | None:
    """The last whole line of metrics.jsonl."""
    try:
        with (out / FILE).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LAST_LINES))
            lines = file.read().decode().splitlines(keepends=True)
    except FileNotFoundError:
        return None
    whole = [line for line in lines if line.endswith("\n")]
    return next(iter(parsed(out / FILE, whole[-1:])), None)


def newest_sample(out: Path) -> Path | None:
    """The first clip of the last validation."""
    clips = sorted((out / SAMPLES).glob("step-*.mp4"))
    last = clips[-1].name.rpartition("-")[0] if clips else ""
    return next((clip for clip in clips if clip.name.startswith(f"{last}-")), None)


def train(
    order: Order,
    before: Callable[[], None],
    watch: Callable[[Look], None],
    insists: Callable[[], bool],
) -> None:
    """Come back when the run in `order.out` is done, however far it was.

    before() is called before a process is started; `watch` while it goes: what it raises stops the run with a
    checkpoint and is raised again, and `insists` may then say that there is no time for that.
    Raises ValueError or OSError of one sentence: the order's, or the run's own.
    """
    config = read_config(order.preset, order.changes)
    state = read_state(order.out)
    running, resume = found(state, order.out), begun(order.out)
    if resume or running is not None:
        check_same(config, order)
    if state is not None and state.state == "done":
        watch(look(order.out))
        return
    child = running
    if child is None:
        before()
        order.out.mkdir(parents=True, exist_ok=True)
        child = Child.start(order.arguments(resume), order.out / LOG, order.env)
    child.follow(lambda: watch(look(order.out)), insists)
    check_done(child, read_state(order.out))


def found(state: State | None, out: Path) -> Child | None:
    """The process of a run that still goes."""
    if state is None or state.state not in ("preparing", "running"):
        return None
    return Child.find(state.pid, (out / STATE_FILE).stat().st_mtime, out / LOG)


def check_done(child: Child, state: State | None) -> None:
    """ValueError with the reason if the run's process ended before the run did."""
    if state is not None and state.state == "done":
        return
    if state is None or state.pid != child.process.pid:
        raise ValueError(child.reason())
    if state.state == "stopped":
        raise ValueError(
            f"the training was stopped from outside at step {state.step} of {state.of}; run again to go on"
        )
    raise ValueError(state.message if state.state == "failed" else child.reason())


def check_same(config: TrainConfig, order: Order) -> None:
    """ValueError if the run in `order.out` was begun with other settings or other clips."""
    stored = stored_config(order.out)
    if stored.fingerprint != config.fingerprint:
        was, now = (dict(flat(one.to_json())) for one in (stored, config))
        keys = [key for key in sorted(was | now) if was.get(key) != now.get(key)]
        changed = ", ".join(f"{key} {was.get(key)} and not {now.get(key)}" for key in keys[:SHOWN])
        more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
        raise ValueError(f"{order.out} holds a run with {changed}{more}; give this run another name")
    if (order.data / INDEX).is_file():
        resumable(order.out, config.fingerprint, Cache.open(order.data).fingerprint)


def flat(data: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """(key.key, value) of all that decides the weights."""
    for key, value in data.items():
        if isinstance(value, dict) and (above or key not in WATCHING):
            yield from flat(value, f"{above}{key}.")
        elif above or key not in WATCHING:
            yield above + key, value
