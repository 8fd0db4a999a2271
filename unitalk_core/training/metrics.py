"""What a run says of itself while it goes: metrics.jsonl, run.json, a console line, and TensorBoard.

A line of metrics.jsonl is a `Record`; run.json is a `State`. Only the main process of a run writes them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

from ..media import replacing

FILE, STATE_FILE = "metrics.jsonl", "run.json"
BINS = ("0-.25", ".25-.5", ".5-.75", ".75-1")  # of sigma
KEEP = 0.97  # of the running averages, per step
CONSOLE, LOG_FILE = 1.0, 15.0  # seconds between two looks, on a screen and in a file

Bins = Mapping[str, Sequence[tuple[float, int]]]
"""Stream -> (sum of the losses, number of the samples) in each quarter of sigma."""
Situation = Literal["preparing", "running", "done", "stopped", "failed"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One step. seconds, eta: of the step, and until the end; memory: the most so far, in MB."""

    step: int  # 1 after the first one
    of: int
    task: str
    loss: float
    losses: Mapping[str, float]  # by stream, and "mouth", "alignment"
    rate: float  # of learning
    gradient: float  # norm, before it is clipped
    seconds: float
    memory: int
    eta: float = 0.0  # `Metrics.write` fills it in
    bins: Bins = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class State:
    """How a run stands. The process may have died since: then its pid is gone and the state is "running"."""

    pid: int
    state: Situation
    step: int
    of: int
    message: str
    fingerprint: str


class Average:
    """Running average that weighs older values less; its first values count in full."""

    def __init__(self, keep: float = KEEP) -> None:
        self.keep, self.sum, self.weight = keep, 0.0, 0.0

    def add(self, value: float) -> float:
        """The average with `value`."""
        self.sum = self.keep * self.sum + (1 - self.keep) * value
        self.weight = self.keep * self.weight + (1 - self.keep)
        return self.sum / self.weight


class Metrics:
    """Writes the records of one run: `with Metrics(out, of) as metrics: metrics.write(record)`.

    main: False in the other processes of a run, which then write nothing. ValueError if TensorBoard is asked
    for and not installed.
    """

    def __init__(self, out: Path, of: int, tensorboard: bool = False, main: bool = True) -> None:
        self.out, self.of, self.main, self.first = out, of, main, 0
        self.averages: dict[str, Average] = {}
        self.seconds = Average()
        self.make_board = board_class() if tensorboard and main else None
        self.file = self.bar = self.board = None

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in (self.file, self.bar, self.board):
            if one is not None:
                one.close()

    def truncate(self, step: int) -> None:
        """Forget what came after `step`: a resumed run does it again. Before the first `write`."""
        self.first = step
        if not self.main:
            return
        kept = [record for record in read_metrics(self.out) if record.step <= step]
        with replacing(self.out / FILE) as temporary:
            temporary.write_text("".join(map(line, kept)), encoding="utf-8")
        for record in kept:
            self._average(record)

    def write(self, record: Record) -> None:
        """Append the record, with the time that is left, and show it."""
        if not self.main:
            return
        if self.file is None:
            self._open()
        means = self._average(record)
        record = replace(record, eta=round(means.pop("seconds") * (record.of - record.step), 1))
        self.file.write(line(record))
        self.file.flush()
        self.bar.set_postfix_str(console(record, means), refresh=False)
        self.bar.update()
        if self.board is not None:
            for name, value in scalars(record).items():
                self.board.add_scalar(name, value, record.step)

    def _open(self) -> None:
        from tqdm import tqdm

        seen = sys.stderr.isatty()
        self.file = (self.out / FILE).open("a", encoding="utf-8")
        self.bar = tqdm(
            total=self.of,
            initial=self.first,
            unit="step",
            miniters=1,
            mininterval=CONSOLE if seen else LOG_FILE,
            dynamic_ncols=seen,
        )
        if self.make_board is not None:
            self.board = self.make_board(str(self.out / "tensorboard"), purge_step=self.first + 1)

    def _average(self, record: Record) -> dict[str, float]:
        """Running averages of the losses that this step has, and of its seconds."""
        means = {
            name: self.averages.setdefault(name, Average()).add(loss) for name, loss in record.losses.items()
        }
        return means | {"seconds": self.seconds.add(record.seconds)}


def board_class() -> Any:
    """TensorBoard's writer; ValueError of one sentence if it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(
            "tensorboard: true needs the package tensorboard; pip install tensorboard, or set it to false"
        ) from error
    return SummaryWriter


def console(record: Record, means: Mapping[str, float]) -> str:
    """What stands beside the progress bar."""
    losses = " ".join(f"{name} {value:.3f}" for name, value in means.items())
    return f"{losses} | rate {record.rate:.1e}, gradient {record.gradient:.2f}, {record.memory} MB"


def scalars(record: Record) -> dict[str, float]:
    """Name -> value of everything that TensorBoard draws."""
    losses = {f"loss/{name}": value for name, value in record.losses.items()}
    bins = {
        f"sigma/{stream} {label}": total / count
        for stream, quarters in record.bins.items()
        for label, (total, count) in zip(BINS, quarters, strict=True)
        if count
    }
    names = ("rate", "gradient", "seconds", "memory")
    run = {f"run/{name}": float(getattr(record, name)) for name in names}
    return {"loss/all": record.loss, f"task/{record.task}": record.loss} | losses | bins | run


def line(record: Record) -> str:
    return json.dumps(record.to_json()) + "\n"


def read_metrics(path: Path) -> list[Record]:
    """The records of a run's folder, or of its metrics.jsonl; none if there is no file yet.

    The last line may be half written, since a run may be killed while it writes, and is then left out;
    ValueError for any other line that is no record.
    """
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return list(parsed(path, (one for one in lines if one.endswith("\n"))))


def parsed(path: Path, lines: Iterable[str]) -> Iterable[Record]:
    for number, one in enumerate(lines, 1):
        try:
            yield Record(**json.loads(one))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}:{number} is no line of a run's metrics; delete the line") from error


def write_state(out: Path, state: Situation, step: int, of: int, message: str, fingerprint: str) -> None:
    """Say how this process stands, in run.json."""
    if state not in get_args(Situation):
        raise ValueError(f"a state is one of {', '.join(get_args(Situation))}, got {state}")
    now = State(pid=os.getpid(), state=state, step=step, of=of, message=message, fingerprint=fingerprint)
    with replacing(out / STATE_FILE) as temporary:
        temporary.write_text(json.dumps(asdict(now)) + "\n", encoding="utf-8")


def read_state(out: Path) -> State | None:
    """How the run in this folder stands; None if there is none, ValueError for a foreign file."""
    path = out / STATE_FILE
    if not path.is_file():
        return None
    try:
        return State(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} does not say how a run stands; choose another folder") from error
