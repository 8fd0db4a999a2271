"""A ComfyUI server as a child process, and the little of its HTTP interface that the tests use."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_SECONDS, RUN_SECONDS, ANSWER_SECONDS = 600, 1200, 600  # on a machine that may stand still
FLAGS = (
    "--cpu", "--disable-auto-launch", "--disable-api-nodes", "--database-url", "sqlite:///:memory:",
    "--preview-method", "latent2rgb", "--listen", "127.0.0.1",
)  # fmt: skip


@dataclass(frozen=True)
class Server:
    url: str
    base: Path
    log: Path
    process: subprocess.Popen[bytes]

    @classmethod
    @contextmanager
    def start(cls, python: Path, host: Path, pack: Path, base: Path, env: dict[str, str]) -> Iterator[Server]:
        """Start a host with `pack` as its only pack, wait until it answers, and stop it at the end.

        A `base` that a host has used before is used as it is, with this pack.
        """
        furnish(base, pack)
        port, log = free_port(), base / "server.log"
        command = [python, "main.py", *FLAGS, "--port", port, "--base-directory", base]
        with log.open("wb") as out:
            process = subprocess.Popen(
                [str(part) for part in command],
                cwd=host,
                env=os.environ | env,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        server = cls(f"http://127.0.0.1:{port}", base, log, process)
        try:
            server.wait_until_up()
            yield server
        finally:
            process.terminate()
            process.wait(60)

    def wait_until_up(self) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"the host ended with {self.process.returncode}:\n{self.said()[-4000:]}")
            try:
                self.get("/system_stats")
                return
            except OSError:
                time.sleep(0.5)
        raise TimeoutError(f"the host did not answer within {START_SECONDS} s:\n{self.said()[-4000:]}")

    def said(self) -> str:
        return self.log.read_text("utf8", errors="replace")

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=ANSWER_SECONDS) as answer:
            return json.load(answer)

    def post(self, path: str, data: Any) -> Any:
        """The answer as JSON; a refusal comes back as {"status": ..., "refused": ...}."""
        head = {"content-type": "application/json"}
        request = urllib.request.Request(self.url + path, json.dumps(data).encode(), head)
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            return {"status": error.code, "refused": json.load(error)}
        return json.loads(text) if text else {}

    def queue(self, graph: dict[str, Any]) -> str:
        answer = self.post("/prompt", {"prompt": graph})
        if "prompt_id" not in answer:
            raise ValueError(f"the host refused the graph: {answer}")
        return answer["prompt_id"]

    def wait_for(self, prompt: str) -> dict[str, Any]:
        """What the history says about a prompt once it has ended."""
        end = time.monotonic() + RUN_SECONDS
        while time.monotonic() < end:
            history = self.get(f"/history/{prompt}")
            if prompt in history:
                return history[prompt]
            time.sleep(0.2)
        raise TimeoutError(f"the prompt did not end within {RUN_SECONDS} s")

    def wait_until_running(self, prompt: str) -> None:
        end = time.monotonic() + RUN_SECONDS
        while time.monotonic() < end:
            if any(one[1] == prompt for one in self.get("/queue")["queue_running"]):
                return
            time.sleep(0.05)
        raise TimeoutError("the prompt did not begin")

    def files(self, history: dict[str, Any]) -> list[Path]:
        """The files that the save nodes of a prompt wrote."""
        found = [one for output in history["outputs"].values() for one in output.get("images", [])]
        return [self.base / one["type"] / one["subfolder"] / one["filename"] for one in found]


def furnish(base: Path, pack: Path) -> None:
    """The folders of a host, and the pack among its own, whichever was there before."""
    for name in ("custom_nodes", "models", "input", "output", "user", "temp"):
        (base / name).mkdir(parents=True, exist_ok=True)
    link = base / "custom_nodes" / "ComfyUI-UniTalk"
    link.unlink(missing_ok=True)
    link.symlink_to(pack, target_is_directory=True)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
