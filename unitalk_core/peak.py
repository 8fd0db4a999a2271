"""The most memory that this process has held."""

from __future__ import annotations

import sys
from pathlib import Path

import torch


def peak_memory(device: torch.device) -> int:
    """The most that this process has held so far, in MB: of the device, or of the machine for a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) // 10**6
    status = Path("/proc/self/status")
    if status.is_file():  # Linux; its getrusage counts what the process that started this one held, too
        told = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(told.split()[1]) * 1024 // 10**6
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset // 10**6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 10**6  # macOS: bytes
