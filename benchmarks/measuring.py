"""What the benchmarks share: on what they ran, and a process of its own for what is measured."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch


def machine() -> str:
    """The machine and what matters of its software, in one line."""
    device = (
        torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} thread(s)"
    )
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    return f"{system}, {device}, Python {platform.python_version()}, torch {torch.__version__}"


def in_child(module: str, *options: object, env: dict[str, str] | None = None) -> dict[str, Any]:
    """What `python -m module options` prints as JSON in its last line. env: beside this process's own."""
    command = [sys.executable, "-m", module, *map(str, options)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | (env or {}))
    return json.loads(done.stdout.splitlines()[-1])


def seconds(way: Callable[[], Any], device: torch.device) -> float:
    """On a CPU those of the processor for this process, which others disturb less."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = clock()
    way()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start
