"""The sound of a clip while it is made: beside the frames of a preview, and as a snippet that browsers play.

A browser says that it plays snippets by POST /unitalk/hear (web/sound.js does); for others none is made.

b batch · c channels · n audio latents or samples
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from aiohttp import web
from comfy_execution.utils import get_executing_context
from server import PromptServer
from torch import Tensor

from ..unitalk_core.media import write_wav
from ..unitalk_core.models.audio_codec import AudioCodec
from . import codecs, host

EVENT, ROUTE = "unitalk.sound", "/unitalk/hear"
SECONDS = 3.0  # of a snippet at most
SHARE = 0.05  # of the time that sampling takes
BEGIN = 0.5  # of the steps: before, there is mostly noise
CODEC = "unitalk_codec"  # key of a model's options
LISTENERS: set[str] = set()  # browsers, by the id that the host gives them


def offer_snippets() -> None:
    """Let browsers say that they play snippets; without a server there are none."""
    server = getattr(PromptServer, "instance", None)
    if server is None:
        return

    @server.routes.post(ROUTE)
    async def hear(request: web.Request) -> web.Response:
        told = await request.json()
        (LISTENERS.add if told["on"] else LISTENERS.discard)(str(told["client_id"]))
        return web.json_response({})


def with_codec(model: Any, audio_vae: Any) -> Any:
    """A MODEL that is heard while any sampler samples it; ValueError for an audio VAE of another model."""
    codec = codecs.audio_codec_for_model(audio_vae, host.config_of(model))
    clone = model.clone()
    clone.model_options[CODEC] = codec
    return clone


def show_sound(executor: Any, *given: Any, latent_shapes: Any = (), **options: Any) -> Tensor:
    """Around the sampling of any sampler: while its callback draws a preview, the sound is at hand too."""
    noise, latent_image, sampler, sigmas, denoise_mask, callback, *rest = given
    guider = executor.class_obj
    latent_format = guider.model_patcher.model.latent_format
    snippets = Snippets(guider.model_options.get(CODEC, latent_format.codec))

    def told(step: int, x0: Tensor, x: Tensor, steps: int, *others: Any) -> None:
        latent_format.heard = host.by_rank(comfy.utils.unpack_latents(x0, latent_shapes)).audio
        try:
            callback(step, x0, x, steps, *others)
            if step + 1 >= BEGIN * steps:
                snippets.send(latent_format.heard)
        finally:
            latent_format.heard = None

    heard = callback if callback is None or not latent_shapes else told
    given = noise, latent_image, sampler, sigmas, denoise_mask, heard, *rest
    return executor(*given, latent_shapes=latent_shapes, **options)


class Snippets:
    """Makes snippets as often as a twentieth of the time allows, and sends them to the browser that asked."""

    def __init__(self, codec: AudioCodec | None) -> None:
        self.codec, self.begun, self.spent = codec, time.perf_counter(), 0.0

    def send(self, latent: Tensor | None) -> None:
        """latent: the estimate of the sound (b, c, n), whose first clip is heard; None is a clip without."""
        now = time.perf_counter()
        node, browser = listening()
        if latent is None or self.codec is None or browser is None or self.spent > SHARE * (now - self.begun):
            return
        if torch.isfinite(latent).all():  # if not, sampling says so itself
            self.tell(latent, node, browser)
        self.spent += time.perf_counter() - now

    def tell(self, latent: Tensor, node: str, browser: str) -> None:
        """Make a snippet of (b, c, n) and say where it is; without room for it, make none any more."""
        try:
            file = write_snippet(self.codec, latent, f"{browser} {node}")
        except comfy.model_management.OOM_EXCEPTION:  # a clip is worth more than hearing it early
            self.codec = None
            host.say("the device has no room to play the sound while it is made")
        else:
            PromptServer.instance.send_sync(EVENT, {"node": node, "file": file}, browser)


def write_snippet(codec: AudioCodec, latent: Tensor, owner: str) -> str:
    """(b, c, n) -> the beginning of the first clip in the host's temporary folder; the name of the file.

    The host serves it from there: it forbids browsers sound from anywhere else (--disable-api-nodes).
    """
    part = latent[:1, :, : int(SECONDS * codec.sample_rate / codec.stride)]
    with at_hand(codec, codecs.sound_memory(codec, part.shape, torch.float32)) as device:
        waveform = codec.decode(part.to(device))
    name = f"unitalk_sound_{sha256(owner.encode()).hexdigest()[:16]}.wav"
    host.temporary_folder().mkdir(parents=True, exist_ok=True)
    return write_wav(host.temporary_folder() / name, waveform, codec.sample_rate).name


@contextmanager
def at_hand(codec: AudioCodec, memory: int) -> Iterator[torch.device]:
    """For a moment on the device that decodes, if it has room for the codec and `memory` bytes as it is.

    Else where it lies. Nothing is moved out for it: the host would take the model that is being sampled.
    """
    own, device = next(codec.parameters()).device, comfy.model_management.vae_device()
    needed = comfy.model_management.module_size(codec) + memory
    moves = device != own and comfy.model_management.get_free_memory(device) > needed
    place = device if moves else own
    try:
        codec.to(place)
        yield place
    finally:
        codec.to(own)


def listening() -> tuple[str, str | None]:
    """The node that runs, and the browser that runs it and plays snippets; None without one."""
    context, server = get_executing_context(), getattr(PromptServer, "instance", None)
    browser = None if context is None or server is None else server.client_id
    return ("", None) if browser not in LISTENERS else (context.node_id, browser)
