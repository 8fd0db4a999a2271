"""ComfyUI-UniTalk as a node pack. Nothing is imported until the host asks for the nodes."""

from __future__ import annotations

WEB_DIRECTORY = "./web"  # what browsers load: web/*.js, and the help pages web/docs/<node id>.md


async def comfy_entrypoint() -> object:
    """The pack as the host wants it; RuntimeError with one sentence when the host is too old for it."""
    from .nodes import extension

    return extension()
