"""Nodes that put a LATENT of any model into a file and take it out again."""

from __future__ import annotations

from typing import Any

from ..unitalk_core.latent_file import SUFFIX, StoredLatent, read_latent, save_latent
from . import host
from .host import io


class UniTalkSaveLatent(io.ComfyNode):
    """A LATENT becomes a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkSaveLatent",
            display_name="UniTalk Save Latent",
            search_aliases=["latent to file", "store latent"],
            category="UniTalk/latent",
            description="Save a latent with all its streams and masks, of this or of any other model.",
            inputs=[
                io.Latent.Input("latent", tooltip="From any node; picture and sound, or one of them."),
                io.String.Input(
                    "filename_prefix",
                    default="latents/UniTalk",
                    tooltip="Place and beginning of the name, in ComfyUI's output folder; a number is added.",
                ),
            ],
            outputs=[io.String.Output(display_name="file", tooltip="Where the file is.")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, latent: dict[str, Any], filename_prefix: str) -> io.NodeOutput:
        path, shown = host.next_output(filename_prefix, SUFFIX)
        save_latent(path, stored(latent), host.graph_of(cls.hidden))
        return io.NodeOutput(str(path), ui={"latents": [shown]})


class UniTalkLoadLatent(io.ComfyNode):
    """A file becomes a LATENT."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkLoadLatent",
            display_name="UniTalk Load Latent",
            search_aliases=["latent from file", "open latent"],
            category="UniTalk/latent",
            description="Load what UniTalk Save Latent saved: all streams and masks, bit for bit.",
            inputs=[
                io.Combo.Input(
                    "file",
                    options=host.output_files(SUFFIX),
                    tooltip="A file in ComfyUI's input or output folder, or in latents inside them.",
                )
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="As it was saved.")],
        )

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        return io.NodeOutput(latent_of(read_latent(host.marked_path(file))))

    @classmethod
    def fingerprint_inputs(cls, file: str) -> str:
        state = host.marked_path(file).stat()
        return f"{state.st_mtime_ns} {state.st_size}"


def stored(latent: dict[str, Any]) -> StoredLatent:
    """LATENT -> what a file holds."""
    mask = latent.get("noise_mask")
    masks = [] if mask is None else host.streams_of({"samples": mask})
    more = {name: value for name, value in latent.items() if name not in ("samples", "noise_mask")}
    return StoredLatent(tuple(host.streams_of(latent)), tuple(masks), more)


def latent_of(found: StoredLatent) -> dict[str, Any]:
    """What a file holds -> LATENT, where the host keeps what goes from node to node."""
    masks = {"noise_mask": host.as_samples(found.masks)} if found.masks else {}
    return {**found.more, "samples": host.as_samples(found.streams), **masks}
