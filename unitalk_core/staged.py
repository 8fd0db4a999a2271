"""A bundle of published files: a part of it is in memory only while it is needed, unless all fit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from .folder import ModelFiles
from .footprint import step_bytes, transformer_bytes, weight_bytes
from .models.audio_codec import AudioCodec
from .models.float8 import Float8
from .models.mmdit import Hooks
from .models.text_encoder import UMT5Encoder
from .models.video_vae import VideoVAE
from .offload import FileBlocks, load_around_blocks
from .weights.loading import (
    load_audio_codec,
    load_audio_vae,
    load_model,
    load_text_encoder,
    load_video_vae,
    load_vocoder,
)

Offload = Literal["none", "parts", "blocks"]
USUAL = (704, 704)  # pixels
SHARE = 0.9  # of the free memory that is counted on
Change = Callable[[nn.Module], None]


def choose_offload(
    files: ModelFiles, device: torch.device, dtype: torch.dtype, float8: Float8 | None = None
) -> Offload:
    """The least that must be brought and let go for a clip of full length and `USUAL` size to fit."""
    form = files.config.format
    model = transformer_bytes(files.config, dtype, float8)
    shape = files.config.streams.map(lambda _, size: size, form.latent_shape(form.max_frames, *USUAL))
    running = model + step_bytes(files.config, shape, dtype, kept=shape.video is not None)
    free = SHARE * free_bytes(device)
    beside = sum(sizes_beside(files, dtype))
    if running + beside <= free:
        return "none"
    return "parts" if running <= free else "blocks"


def sizes_beside(files: ModelFiles, dtype: torch.dtype) -> list[int]:
    """Bytes of the parts beside the transformer."""
    sizes = [weight_bytes(load_text_encoder(files.text_encoder, None, dtype, "meta"))]
    if files.video_vae is not None:
        sizes.append(weight_bytes(load_video_vae(files.video_vae, dtype=dtype, device="meta")))
    if files.audio_vae is not None:
        sizes.append(weight_bytes(load_audio_vae(files.audio_vae, device="meta")))
        sizes.append(weight_bytes(load_vocoder(files.vocoder, device="meta")))
    return sizes


def free_bytes(device: torch.device) -> int:
    """Of a GPU, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return psutil.virtual_memory().available


class StagedBundle:
    """As `pipeline.Bundle`. Asking for a part loads it onto `device`, and lets the others go.

    offload: "none" keeps all parts, "parts" one at a time, "blocks" the same with a transformer whose blocks
    are brought from the file one by one. dtype: of all but the audio parts, which are float32. float8: the
    matrices of the transformer's blocks, as `load_model` has it.
    """

    shown = 1

    def __init__(
        self,
        files: ModelFiles,
        device: torch.device,
        dtype: torch.dtype,
        offload: Offload = "parts",
        float8: Float8 | None = None,
    ) -> None:
        self.files, self.device, self.dtype, self.offload = files, device, dtype, offload
        self.float8 = float8
        self.config = files.config
        self._held: dict[str, Any] = {}
        self._changes: list[Change] = []
        self._attached: list[Change] = []

    def change(self, change: Change) -> None:
        """Do something to the transformer whenever it is loaded; ValueError now if it does not fit."""
        if self.offload == "blocks":
            raise ValueError(
                "blocks that come from the file cannot be changed; bake the LoRA into a file with convert "
                "--lora, or take --offload parts"
            )
        change(load_model(self.files.model, device="meta", float8=self.float8)[0])
        self._changes.append(change)
        self._held.pop("model", None)

    def attach(self, change: Change) -> None:
        """Do something around the transformer, and nothing to its weights, whenever it is loaded."""
        self._attached.append(change)
        self._held.pop("model", None)

    @property
    def model(self) -> Callable[..., Any]:
        return self._part("model", self._load_blocks if self.offload == "blocks" else self._load_model)

    @property
    def text_encoder(self) -> UMT5Encoder:
        files = self.files
        load = partial(load_text_encoder, files.text_encoder, files.tokenizer, self.dtype)
        return self._part("text_encoder", load)

    @property
    def video_vae(self) -> VideoVAE:
        return self._part("video_vae", partial(load_video_vae, self.files.video_vae, dtype=self.dtype))

    @property
    def audio_codec(self) -> AudioCodec:
        return self._part("audio_codec", partial(load_audio_codec, self.files.audio_vae, self.files.vocoder))

    def _part(self, name: str, load: Callable[[], Any]) -> Any:
        if name not in self._held:
            if self.offload != "none":
                self._held.clear()
            loaded = load()
            self._held[name] = loaded.to(self.device) if isinstance(loaded, nn.Module) else loaded
        return self._held[name]

    def _load_model(self) -> nn.Module:
        model = load_model(self.files.model, dtype=self.dtype, float8=self.float8)[0]
        for change in self._changes:
            change(model)
        return self._with_attached(model)

    def _load_blocks(self) -> Callable[..., Any]:
        blocks = FileBlocks(self.files.model, self.dtype, self.device, self.float8)
        model = load_around_blocks(self.config, blocks)
        return partial(self._with_attached(model), hooks=Hooks(run_block=blocks.run))

    def _with_attached(self, model: nn.Module) -> nn.Module:
        for change in self._attached:
            change(model)
        return model
