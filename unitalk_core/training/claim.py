"""Whose a run's folder is, what it says of its state, and how it is asked to stop."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..media import replacing
from .checkpoints import checkpoints
from .config import TrainConfig, from_data
from .metrics import Situation, read_metrics, write_state

if TYPE_CHECKING:
    from accelerate import Accelerator

CONFIG, LOCK = "config.json", ".lock"
TELL_SECONDS = 3.0  # between two writings of how far it is
SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)
]  # the last one is of Windows
Tell = Callable[[Situation, int], None]


@contextmanager
def claimed(out: Path, config: TrainConfig, resume: bool, accelerator: Accelerator) -> Iterator[Tell]:
    """The folder for this run alone. Yields what writes run.json; however the run ends stands there too.

    ValueError if another process trains here, if a run is there and is not resumed, or with other settings.
    """
    if not accelerator.is_main_process:
        yield lambda *_: None
        return
    from filelock import FileLock, Timeout

    if out.is_file():
        raise NotADirectoryError(f"{out} is a file; give a folder")
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / LOCK, timeout=0):
            check_free(out, config, resume)
            with replacing(out / CONFIG) as temporary:
                temporary.write_text(json.dumps(config.to_json(), indent=1) + "\n", encoding="utf-8")
            with told(out, config) as tell:
                yield tell
    except Timeout as error:
        raise ValueError(f"another process trains in {out}; wait for it, or give another folder") from error


def begun(out: Path) -> bool:
    """Whether a run in this folder has got anywhere; one that was refused has not."""
    return (out / CONFIG).is_file() and bool(checkpoints(out) or read_metrics(out))


def stored_config(out: Path) -> TrainConfig:
    """What the run in this folder was begun with."""
    return from_data(json.loads((out / CONFIG).read_text(encoding="utf-8")), str(out / CONFIG))


def check_free(out: Path, config: TrainConfig, resume: bool) -> None:
    if not begun(out):
        return
    if not resume:
        raise ValueError(f"{out} holds a run already; go on with --resume, or give another folder")
    if stored_config(out).fingerprint != config.fingerprint:
        raise ValueError(f"the configuration of the run in {out} was another; give another folder")


@contextmanager
def told(out: Path, config: TrainConfig) -> Iterator[Tell]:
    last = {"step": 0, "time": 0.0, "state": ""}

    def write(state: Situation, step: int, message: str = "") -> None:
        last.update(step=step, state=state, time=time.monotonic())
        write_state(out, state, step, config.steps, message, config.fingerprint)

    def tell(state: Situation, step: int) -> None:
        if state != last["state"] or time.monotonic() - last["time"] > TELL_SECONDS:
            write(state, step)
        last["step"] = step

    try:
        yield tell
    except KeyboardInterrupt:
        write("stopped", last["step"])
        raise
    except BaseException as error:
        write("failed", last["step"], str(error))
        raise


class Stopped(Exception):  # noqa: N818 - not an error
    """Leave what is being done: the run has been told to stop."""


class Stop:
    """Turns `SIGNALS` into a question that is asked after each step; a second one stops at once."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator, self.told, self.before = accelerator, threading.Event(), {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self.before[number] = signal.signal(number, self.hear)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def hear(self, *_: Any) -> None:
        if self.told.is_set():
            raise KeyboardInterrupt
        self.told.set()

    def heed(self) -> None:
        """Raise `Stopped` once told to stop, where no other process is left waiting."""
        if self.told.is_set() and self.accelerator.num_processes == 1:
            raise Stopped

    def asked(self) -> bool:
        """Whether any process of the run has been told to stop."""
        if self.accelerator.num_processes == 1:
            return self.told.is_set()
        flag = torch.tensor(float(self.told.is_set()), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum") > 0)
