"""A command of the core in a process of its own: started, followed, stopped, and found again.

For programs with a screen, such as a host of nodes. The child has its own memory and its own process group:
it outlives the program that started it, and neither takes the other along when it fails.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

log = logging.getLogger("unitalk")

ROOT = Path(__file__).resolve().parents[1]  # the folder that holds unitalk_core
# `-m unitalk_core` would look for the core where an isolated Python, such as a portable one, does not look
BOOT = (
    "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); "
    "runpy.run_module('unitalk_core', run_name='__main__', alter_sys=True)"
)
LOOK = 0.25  # seconds between two looks at the child
LAST_WORDS = 20_000  # bytes of the log in which a reason is looked for


class Child:
    """A running process. log: the file that takes its output, and where in it this process began."""

    def __init__(self, process: psutil.Process, log_file: Path, begins: int = 0) -> None:
        self.process, self.log, self.begins = process, log_file, begins
        self.code: int | None = None  # of the ended process, where it can be known

    @classmethod
    def start(cls, arguments: Sequence[str], log_file: Path, env: Mapping[str, str] | None = None) -> Child:
        """`python -m unitalk_core ARGUMENTS`; what it says is appended to `log_file`."""
        import psutil

        isolated = ["-s"] if sys.flags.no_user_site else []  # as this Python was started
        command = [sys.executable, *isolated, "-c", BOOT, str(ROOT), *arguments]
        begins = log_file.stat().st_size if log_file.exists() else 0
        with log_file.open("ab") as out:
            process = psutil.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONUTF8": "1"} | (env or {}),
                **own_group(),
            )
        return cls(process, log_file, begins)

    @classmethod
    def find(cls, pid: int, seen: float, log_file: Path) -> Child | None:
        """The process `pid` if it still runs. seen: when it last gave a sign; a younger one is another."""
        import psutil

        try:
            process = psutil.Process(pid)
            child = cls(process, log_file)
            return child if process.create_time() <= seen and not child.ended() else None
        except psutil.NoSuchProcess:
            return None

    def ended(self) -> bool:
        import psutil

        try:
            if self.process.status() == psutil.STATUS_ZOMBIE and self.process.ppid() != os.getpid():
                return True
            self.code = self.process.wait(timeout=0)
        except psutil.TimeoutExpired:
            return False
        except psutil.NoSuchProcess:
            return True
        return True

    def follow(self, watch: Callable[[], None], insists: Callable[[], bool]) -> None:
        """Wait until it ends, looking on with `watch`.

        What `watch` raises ends the child first: it is asked to, may finish what it is at, and is killed only
        if meanwhile `insists()`.
        """
        try:
            while not self.ended():
                watch()
                time.sleep(LOOK)
        except BaseException:
            self.stop(insists)
            raise
        watch()

    def stop(self, insists: Callable[[], bool]) -> None:
        """Ask it to end and wait until it has; kill it if `insists()`."""
        self.ask_to_end()
        while not self.ended():
            if insists():
                self.kill()
            time.sleep(LOOK)

    def ask_to_end(self) -> None:
        """SIGTERM; on Windows a break, which only reaches a process of the same console, else the end."""
        import psutil

        try:
            self.process.send_signal(signal.CTRL_BREAK_EVENT if sys.platform == "win32" else signal.SIGTERM)
        except psutil.NoSuchProcess:
            return
        except OSError:
            self.kill()

    def kill(self) -> None:
        """End it and all that it started, at once."""
        import psutil

        try:
            for process in [*self.process.children(recursive=True), self.process]:
                process.kill()
        except psutil.NoSuchProcess:
            return

    def reason(self) -> str:
        """Why it ended, in one sentence: its own if it said one."""
        lines = self.said().splitlines()
        told = [line for line in lines if line.startswith("unitalk: ")]
        if told:
            return told[-1].removeprefix("unitalk: ")
        if self.code is not None and -self.code == getattr(signal, "SIGKILL", 9):
            return f"the process was killed, most likely for want of memory; its log is {self.log}"
        last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
        return f"the process ended with code {self.code} and said last: {last}; its log is {self.log}"

    def said(self) -> str:
        """The end of what it wrote."""
        with self.log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(self.begins, file.tell() - LAST_WORDS))
            return file.read().decode(errors="replace").replace("\r", "\n")


def own_group() -> dict[str, object]:
    """Options of Popen: what is sent to this program's group, such as Ctrl-C, does not reach the child."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}
