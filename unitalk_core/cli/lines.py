"""A clip for each line of a file, by any number of processes: `sample --prompts`.

Beside a clip lies a record of what it was made from (.made/NAME.json). A line whose clip is there as its
record says is left alone, so a run that was killed goes on where it stopped, with other processes if need be.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .bundle import load
from .sample import add_request, as_voice, make_clip, suffix

if TYPE_CHECKING:
    from ..processes import Processes

RECORDS = ".made"  # folder beside the clips
WEIGHTS = (".safetensors", ".sft", ".pth", ".pt", ".bin", ".ckpt", ".gguf")
READ = ("image", "last_image", "keep_video", "keep_audio", "continued")  # options that name a file
FILES = ("model", "lora")  # that are told apart by their content
BESIDE = (
    "out", "report", "prompts", "run", "device", "offload", "passes", "attention", "compile",
)  # fmt: skip  # that say nothing of the clip
ENDS = 1 << 20  # bytes at both ends of a file of weights that stand for all of it


@dataclass(frozen=True)
class Line:
    """A line whose clip is wanted. key: of all that decides it; needs: lines whose clips it begins from."""

    number: int
    args: argparse.Namespace
    key: str
    needs: tuple[int, ...] = ()

    @property
    def out(self) -> Path:
        return Path(self.args.out)


@dataclass
class Plan:
    """What is there, what is not, and what cannot be.

    made: reports, failed: sentences, both with the number of the line; todo: lines that need each other stand
    together.
    """

    made: list[dict[str, Any]] = field(default_factory=list)
    todo: list[list[Line]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)

    def fail(self, number: int, error: Exception) -> None:
        print(f"unitalk: line {number}: {error}", file=sys.stderr)
        self.failed.append({"line": number, "error": str(error)})


def run_lines(args: argparse.Namespace, processes: Processes) -> dict[str, Any]:
    """Make what is missing, each clip in one process. Returns the report on all of them."""
    with ExitStack() as held:
        plan = processes.once(lambda: make_plan(args, held))
        start = time.perf_counter()
        bundle = processes.everywhere(lambda: load(args)) if plan.todo else None
        loaded = time.perf_counter() - start
        own = Plan()
        for place in processes.share(len(plan.todo)):
            make_lines(bundle, plan.todo[place], own)
        plans = [plan, *processes.gather(own)]
    clips = sorted((one for some in plans for one in some.made), key=lambda one: one["line"])
    failed = sorted((one for some in plans for one in some.failed), key=lambda one: one["line"])
    kept = len(plan.made)
    if processes.first:
        print(f"{len(clips) - kept} clips made, {kept} were there, {len(failed)} lines failed")
    told = {"kept": kept, "load_seconds": round(loaded, 3), "processes": processes.size}
    return {"clips": clips, "failed": failed} | told


def read_lines(args: argparse.Namespace) -> dict[int, str]:
    """The lines of --prompts that are not empty, by number."""
    path = Path(args.prompts)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if "out" in args and not Path(args.out).is_dir():
        raise FileNotFoundError(f"with --prompts, --out is a folder that exists; got {args.out}")
    texts = path.read_text(encoding="utf-8").splitlines()
    lines = {number: text for number, text in enumerate(texts, 1) if text.strip()}
    if not lines:
        raise ValueError(f'{path} has no lines; give one object a line, such as {{"say": "hello"}}')
    return lines


# --- what is to be done ----------------------------------------------------------------------------------


def make_plan(args: argparse.Namespace, held: ExitStack) -> Plan:
    """Look at every line and at what is there; until `held` is closed, no other run may write there."""
    plan, lines = Plan(), {}
    for number, text in read_lines(args).items():
        try:
            lines[number] = line_arguments(text, args, number)
        except ValueError as error:
            plan.fail(number, error)
    claim({Path(one.out).resolve().parent for one in lines.values()}, held)
    weights, written, groups = weights_key(args), {}, {}
    for number, one in lines.items():
        try:
            line = as_line(number, one, weights, written)
        except (ValueError, OSError) as error:
            plan.fail(number, error)
            continue
        written[line.out.resolve()] = line
        report = made_before(line)
        if report is None:
            groups[number] = joined(number, line.needs, groups)
        else:
            plan.made.append({"line": number} | report)
    todo = {id(group): group for group in groups.values()}.values()
    by_number = {line.number: line for line in written.values()}
    plan.todo = [[by_number[number] for number in sorted(group)] for group in todo]
    return plan


def joined(number: int, needs: Iterable[int], groups: dict[int, set[int]]) -> set[int]:
    """The group of a line: those it needs that are still to be made, and all that these stand with."""
    group = {number}.union(*(groups[one] for one in needs if one in groups))
    groups.update(dict.fromkeys(group, group))
    return group


def claim(folders: Iterable[Path], held: ExitStack) -> None:
    """ValueError if another run writes to one of these folders; those that are missing are not claimed."""
    from filelock import FileLock, Timeout

    for folder in sorted(one for one in folders if one.is_dir()):
        (folder / RECORDS).mkdir(exist_ok=True)
        try:
            held.enter_context(FileLock(folder / RECORDS / "lock", timeout=0))
        except Timeout as error:
            raise ValueError(
                f"another run makes clips in {folder}; wait for it, or start all its processes with one "
                "torchrun or accelerate launch"
            ) from error


def as_line(number: int, args: argparse.Namespace, weights: str, written: dict[Path, Line]) -> Line:
    """With its key. written: the lines before it by what they write; a clip of theirs counts as their key."""
    if Path(args.out).resolve() in written:
        raise ValueError(f"an earlier line is written to {args.out}")
    needs, options = set(), {name: one for name, one in vars(args).items() if name not in BESIDE + FILES}

    def content(path: str) -> str:
        before = written.get(Path(path).resolve())
        if before is None:
            return fingerprint(Path(path))
        needs.add(before.number)
        return before.key

    for name in (one for one in READ if one in options):
        options[name] = content(options[name])
    voices = map(as_voice, options.get("voice", ()))
    options["voice"] = [(content(path), when) for path, when in voices]
    told = json.dumps([weights, options], sort_keys=True)
    return Line(number, args, hashlib.sha256(told.encode()).hexdigest(), tuple(sorted(needs)))


def weights_key(args: argparse.Namespace) -> str:
    """Of the model and its LoRAs, by names, sizes and ends of their files; nothing for what is not there."""
    from ..pipeline import EMBEDDED, EMBEDDED_VARIABLE, TINY

    model = Path(os.environ.get(EMBEDDED_VARIABLE, EMBEDDED) if args.model == TINY else args.model)
    files = [one for one in sorted(model.rglob("*")) if one.suffix in WEIGHTS] if model.is_dir() else [model]
    found = [[one.name, fingerprint(one, ENDS)] for one in files if one.is_file()]
    for one in args.lora:
        path, _, strengths = one.partition("=")
        found.append([fingerprint(Path(path), ENDS) if Path(path).is_file() else path, strengths])
    return json.dumps(found)


def fingerprint(path: Path, ends: int | None = None) -> str:
    """SHA-256 of a file, or of its size and its first and last `ends` bytes; OSError if it is not there."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    size, found = path.stat().st_size, hashlib.sha256()
    with path.open("rb") as file:
        if ends is None or size <= 2 * ends:
            while part := file.read(1 << 20):
                found.update(part)
        else:
            found.update(f"{size}".encode() + file.read(ends))
            file.seek(-ends, 2)
            found.update(file.read(ends))
    return found.hexdigest()


# --- doing it --------------------------------------------------------------------------------------------


def make_lines(bundle: Any, lines: list[Line], plan: Plan) -> None:
    """Lines that need each other, in turn; a line that fails does not stop those that can do without it."""
    failed = set()
    for line in lines:
        try:
            if missing := failed.intersection(line.needs):
                raise ValueError(f"line {min(missing)}, whose clip it begins from, failed")
            plan.made.append({"line": line.number} | make_line(bundle, line))
        except (ValueError, OSError) as error:
            plan.fail(line.number, error)
            failed.add(line.number)


def make_line(bundle: Any, line: Line) -> dict[str, Any]:
    """The clip, then its record: whoever finds the record finds the whole clip."""
    from ..media import replacing

    for left in line.out.parent.glob(f".{line.out.name}.*.part"):  # of a process that was killed
        left.unlink()
    report = make_clip(bundle, line.args)
    with replacing(record_of(line)) as temporary:
        told = json.dumps({"key": line.key, "clip": report}, indent=1) + "\n"
        temporary.write_text(told, encoding="utf-8")
    return report


def record_of(line: Line) -> Path:
    return line.out.parent / RECORDS / f"{line.out.name}.json"


def made_before(line: Line) -> dict[str, Any] | None:
    """The report on the clip of this line if it is there, whole and not another one."""
    try:
        record = json.loads(record_of(line).read_text(encoding="utf-8"))
        same = record["key"] == line.key and line.out.stat().st_size == record["clip"]["bytes"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record["clip"] if same else None


# --- what a line says ------------------------------------------------------------------------------------


def line_arguments(text: str, base: argparse.Namespace, number: int) -> argparse.Namespace:
    """The options of one line over those of the command line; ValueError if it is no object of options."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"this is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f'a line is an object such as {{"say": "hello"}}, got {text.strip()[:40]}')
    parser = LineParser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    add_request(parser)
    parser.add_argument("--out")
    argv = [
        f"--{str(key).replace('_', '-')}={as_text(key, one)}"
        for key, value in values.items()
        for one in (value if key == "voice" and isinstance(value, list) else [value])
        if one is not None
    ]
    args = copy(base)
    if "voice" in values:
        args.__dict__.pop("voice", None)  # or the line's would be added to it
    folder = Path(args.__dict__.pop("out")) if "out" in args else None
    args = parser.parse_args(argv, namespace=args)
    if "out" not in args:
        if folder is None:
            raise ValueError("there is no out; name the file, or give --out FOLDER for all lines")
        args.out = str(folder / f"{number:04d}{suffix(args)}")
    return args


class LineParser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise ValueError(message)


def as_text(key: str, value: Any) -> str:
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise ValueError(f"{key} must be text or a number, got {json.dumps(value)}")
    return str(value)
