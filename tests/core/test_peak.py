"""Peak memory: of this process, and all that it held."""

from __future__ import annotations

import subprocess
import sys

import torch

from unitalk_core.peak import peak_memory


def test_peak_memory_counts_what_was_held_and_let_go():
    block = bytearray(b"x") * 300_000_000
    del block
    assert peak_memory(torch.device("cpu")) >= 300


def test_peak_memory_is_that_of_this_process_and_not_of_the_one_that_started_it():
    block = bytearray(b"x") * 1_500_000_000
    code = "import torch; from unitalk_core.peak import peak_memory as peak; "
    code += "print(peak(torch.device('cpu')))"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    del block
    assert 50 < int(child.stdout) < 1400
