"""ComfyUI-UniTalk as a node pack. Nothing is imported until the host asks for the nodes."""

from __future__ import annotations

from typing import Any

WEB_DIRECTORY = "./web"  # the help pages of the nodes: web/docs/<node id>.md


async def comfy_entrypoint() -> Any:
    """The pack as the host wants it; RuntimeError with one sentence when the host is too old for it."""
    from .nodes import extension

    return extension()
