"""Checkpoints of a run: each a folder that appears whole, the newest few kept.

`step-000100/` holds the tensors as safetensors, in one piece or in one per process, and `state.json`.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accelerate import Accelerator

FOLDER, STATE = "checkpoints", "state.json"
NAME = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True, kw_only=True)
class RunState:
    """What goes on besides tensors. Chance needs no state: it follows from the seed and the step.

    running: averages of the losses; config, cache: fingerprints, which a resumed run must share.
    """

    step: int
    seed: int
    config: str
    cache: str
    running: Mapping[str, float]
    torch: str


def checkpoints(out: Path) -> list[Path]:
    """The whole ones, oldest first."""
    found = (path for path in (out / FOLDER).glob("step-*") if NAME.fullmatch(path.name))
    return sorted((path for path in found if (path / STATE).is_file()), key=step_of)


def step_of(path: Path) -> int:
    return int(NAME.fullmatch(path.name)[1])


def save_checkpoint(
    out: Path, state: RunState, save: Callable[[Path], None], keep: int, accelerator: Accelerator
) -> None:
    """Write a checkpoint under a hidden name, rename it, then remove the oldest. save(folder): the tensors.

    Called by every process of a run. OSError of one sentence if it cannot be written; the others stay.
    """
    final = out / FOLDER / f"step-{state.step:06d}"
    part = final.with_name(f".{final.name}.part")
    if accelerator.is_main_process:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    accelerator.wait_for_everyone()
    try:
        save(part)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            (part / STATE).write_text(json.dumps(asdict(state), indent=1), encoding="utf-8")
            shutil.rmtree(final, ignore_errors=True)
            part.rename(final)
            for old in checkpoints(out)[:-keep]:
                shutil.rmtree(old)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise OSError(
            f"the checkpoint of step {state.step} cannot be written to {final.parent} ({error}); "
            "make room, then go on with --resume"
        ) from error


def read_run_state(path: Path) -> RunState:
    """ValueError for a checkpoint of another version."""
    try:
        return RunState(**json.loads((path / STATE).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is no checkpoint of this version; start anew in another folder") from error


def resumable(out: Path, config: str, cache: str) -> Path | None:
    """The newest checkpoint; None if there is none yet.

    ValueError if it was made with another configuration or other clips: it would be another run.
    """
    found = checkpoints(out)
    if not found:
        return None
    state = read_run_state(found[-1])
    for name, now, then in (("configuration", config, state.config), ("dataset", cache, state.cache)):
        if now != then:
            raise ValueError(
                f"the {name} has changed since {found[-1]}; go on with the old one, or start anew elsewhere"
            )
    return found[-1]
