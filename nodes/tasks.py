"""Nodes that give a part of a clip: it stands in the LATENT, and the noise mask keeps it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..unitalk_core.av import AV
from ..unitalk_core.kept import fit_picture, fit_sound, keep, still_frames
from ..unitalk_core.seam import check_join, check_old, check_room, end_of, joined, seen_frames
from . import codecs, host
from .host import io

LATENT = {"tooltip": "From UniTalk Empty Latent, or from another node that keeps a part: they add up."}
MISMATCH = {"options": ["error", "pad", "trim"], "default": "error"}
OVERLAP = {"default": 0.6, "min": 0.2, "max": 4.0, "step": 0.1}
FPS = {"default": 25.0, "min": 0.0, "max": 240.0, "step": 0.01}


class UniTalkImageToLatent(io.ComfyNode):
    """The picture that a clip begins with, and the one that it ends with."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkImageToLatent",
            display_name="UniTalk Image To Latent",
            search_aliases=["image to video", "first frame", "last frame", "i2v"],
            category="UniTalk/tasks",
            description="Begin a clip with a picture, end it with one, or both: these latents are kept.",
            inputs=[
                io.Latent.Input("latent", **LATENT),
                io.Vae.Input("vae", tooltip="The Wan2.2 VAE from the stock VAELoader, or the miniature's."),
                io.Image.Input(
                    "first_image",
                    optional=True,
                    tooltip="The first frame, cut evenly to the clip's shape; one, or one for each clip.",
                ),
                io.Image.Input(
                    "last_image",
                    optional=True,
                    tooltip="The picture at which the clip comes to rest. The paper has no such task.",
                ),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="For any sampler.")],
        )

    @classmethod
    def execute(
        cls, latent: dict[str, Any], vae: Any, first_image: Any = None, last_image: Any = None
    ) -> io.NodeOutput:
        if first_image is None and last_image is None:
            raise ValueError("there is no picture; connect first_image, last_image, or both")
        if last_image is not None and codecs.frames_in(vae, video_of(latent)) == 1:
            raise ValueError("a clip of one frame has no end to rest at; leave out last_image")
        if first_image is not None:
            latent = with_kept(latent, "video", each(vae, first_image, latent, 1))
        if last_image is not None:
            stride = vae.upscale_ratio[0](2) - 1
            latent = with_kept(latent, "video", each(vae, last_image, latent, 1 + stride)[:, :, -1:], at=-1)
        return io.NodeOutput(latent)


class UniTalkKeepVideo(io.ComfyNode):
    """A picture that stays and gets a sound."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkKeepVideo",
            display_name="UniTalk Keep Video",
            search_aliases=["video to audio", "dub", "foley"],
            category="UniTalk/tasks",
            description="Dub: the whole picture is given and stays, only the sound is made.",
            inputs=[
                io.Latent.Input("latent", **LATENT),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="The Wan2.2 VAE from the stock VAELoader, or the miniature's.",
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="The frames that stay, at the rate of the clip. Not connected: the picture that "
                    "is in the latent already, of any model.",
                ),
                io.Combo.Input(
                    "on_mismatch",
                    **MISMATCH,
                    optional=True,
                    tooltip="When the picture is not as long as the clip: stop and say so, repeat its last "
                    "frame, or leave out its end.",
                ),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="For any sampler.")],
        )

    @classmethod
    def execute(
        cls, latent: dict[str, Any], vae: Any = None, images: Any = None, on_mismatch: str = "error"
    ) -> io.NodeOutput:
        picture = video_of(latent)
        if images is None:
            return io.NodeOutput(with_kept(latent, "video", not_empty(picture, "picture", "images and vae")))
        count = codecs.frames_in(vae, picture)
        frames = fit_picture(host.pictures_of(images), count, on_mismatch)
        return io.NodeOutput(with_kept(latent, "video", codecs.encode_picture(vae, frames, picture)))


class UniTalkKeepAudio(io.ComfyNode):
    """A sound that stays and gets a picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkKeepAudio",
            display_name="UniTalk Keep Audio",
            search_aliases=["audio to video", "drive by audio", "talking head"],
            category="UniTalk/tasks",
            description="Drive by sound: the whole sound is given and stays, only the picture is made.",
            inputs=[
                io.Latent.Input("latent", **LATENT),
                io.Vae.Input(
                    "audio_vae", optional=True, tooltip="The audio VAE that the model was trained with."
                ),
                io.Audio.Input(
                    "audio",
                    optional=True,
                    tooltip="The sound that stays, of any rate. Not connected: the sound that is in the "
                    "latent already, of any model.",
                ),
                io.Combo.Input(
                    "on_mismatch",
                    **MISMATCH,
                    optional=True,
                    tooltip="When the sound is not as long as the clip, by more than half a latent frame: "
                    "stop and say so, add silence, or leave out its end.",
                ),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="For any sampler.")],
        )

    @classmethod
    def execute(
        cls, latent: dict[str, Any], audio_vae: Any = None, audio: Any = None, on_mismatch: str = "error"
    ) -> io.NodeOutput:
        streams = host.streams_of(latent)
        sound = streams[host.place_of(streams, "audio")]
        if audio is None:
            return io.NodeOutput(with_kept(latent, "audio", not_empty(sound, "sound", "audio and audio_vae")))
        codec, count = codecs.audio_codec_for(audio_vae, sound), sound.shape[2]
        heard = codecs.sound_at_rate(audio_vae, audio, purpose="keep").mean(0)
        slack = int(codec.stride * (1 + count / (2 * streams[0].shape[2])))  # EmptyLatent's nearest length
        fitted = fit_sound(heard, count * codec.stride, codec.sample_rate, slack, on_mismatch)
        tell_fitted(len(heard), len(fitted), codec.sample_rate)
        return io.NodeOutput(with_kept(latent, "audio", codecs.encode_sound(audio_vae, fitted, count)))


class UniTalkContinue(io.ComfyNode):
    """A clip goes on."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkContinue",
            display_name="UniTalk Continue",
            search_aliases=["extend video", "continue clip", "longer video"],
            category="UniTalk/tasks",
            description="Begin a clip with the end of another, picture and sound: it goes on from there.",
            inputs=[
                io.Latent.Input(
                    "latent", tooltip="From UniTalk Empty Latent, as long as the overlap and what is added."
                ),
                io.Vae.Input("vae", tooltip="The Wan2.2 VAE from the stock VAELoader, or the miniature's."),
                io.Vae.Input("audio_vae", tooltip="The audio VAE that the model was trained with."),
                io.Float.Input(
                    "fps", **FPS, tooltip="Frames per second: connect the fps of UniTalk Empty Latent."
                ),
                io.Float.Input(
                    "overlap",
                    **OVERLAP,
                    tooltip="Seconds at the end of the old clip that the model sees and hears; 0.6 is usual.",
                ),
                io.Image.Input("images", optional=True, tooltip="The frames of the clip that goes on."),
                io.Audio.Input("audio", optional=True, tooltip="The sound of the clip that goes on."),
                io.Latent.Input(
                    "previous",
                    optional=True,
                    tooltip="Instead of images and audio: the latent of the clip that goes on.",
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="For any sampler."),
                io.Int.Output(
                    "seen_frames",
                    display_name="seen_frames",
                    tooltip="Frames of the overlap, for UniTalk Join Clips.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        latent: dict[str, Any],
        vae: Any,
        audio_vae: Any,
        fps: float,
        overlap: float,
        images: Any = None,
        audio: Any = None,
        previous: Any = None,
    ) -> io.NodeOutput:
        form = codecs.form_of(vae, audio_vae, both_of(latent), fps)
        if previous is not None:
            images, audio = codecs.decode_clip(vae, audio_vae, alone(previous, images, audio))
        old = codecs.clip_of(audio_vae, images, audio, fps, purpose="continue")
        check_old(form, old, overlap)
        seen = check_room(form, seen_frames(form, old, overlap))
        frames, sound = end_of(old, seen, form)
        picture = codecs.encode_picture(vae, frames, video_of(latent))
        heard = codecs.encode_sound(audio_vae, sound, len(sound) // form.audio_stride)
        return io.NodeOutput(with_kept(with_kept(latent, "video", picture), "audio", heard), seen)


class UniTalkJoinClips(io.ComfyNode):
    """A clip and its continuation as one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkJoinClips",
            display_name="UniTalk Join Clips",
            search_aliases=["concatenate clips", "append video"],
            category="UniTalk/tasks",
            description="Put what UniTalk Continue added behind the clip that it continues, without a jump.",
            inputs=[
                io.Image.Input("images_before", tooltip="The frames of the clip that goes on; they stay."),
                io.Audio.Input("audio_before", tooltip="Its sound; it stays but for the last 15 ms."),
                io.Image.Input("images", tooltip="What was decoded of the continuation, overlap included."),
                io.Audio.Input("audio", tooltip="Its sound."),
                io.Vae.Input("audio_vae", tooltip="The audio VAE that decoded it: it knows its steps."),
                io.Float.Input(
                    "fps", **FPS, tooltip="Frames per second: connect the fps of UniTalk Empty Latent."
                ),
                io.Int.Input(
                    "seen_frames",
                    default=13,
                    min=1,
                    max=10000,
                    tooltip="Frames of the overlap: connect the seen_frames of UniTalk Continue.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="All frames."),
                io.Audio.Output(display_name="audio", tooltip="All sound, at the rate of the model."),
            ],
        )

    @classmethod
    def execute(
        cls,
        images_before: Any,
        audio_before: Any,
        images: Any,
        audio: Any,
        audio_vae: Any,
        fps: float,
        seen_frames: int,
    ) -> io.NodeOutput:
        old = codecs.clip_of(audio_vae, images_before, audio_before, fps, purpose="put the new one behind")
        made = codecs.clip_of(audio_vae, images, audio, fps, purpose="put behind the old one")
        check_join(old, made, seen_frames)
        longer = joined(old, made, codecs.sound_form(audio_vae, fps), seen_frames)
        return io.NodeOutput(longer.frames, host.audio_of(longer.waveform[None], longer.sample_rate))


def video_of(latent: dict[str, Any]) -> Tensor:
    """The picture of a LATENT, of any model."""
    streams = host.streams_of(latent)
    return streams[host.place_of(streams, "video")]


def both_of(latent: dict[str, Any]) -> AV[Tensor]:
    """Both streams of a LATENT; ValueError if one is absent."""
    streams = host.streams_of(latent)
    return AV(*(streams[host.place_of(streams, name)] for name in ("video", "audio")))


def with_kept(latent: dict[str, Any], name: str, given: Tensor, at: int = 0) -> dict[str, Any]:
    """LATENT with `given` in one stream from step `at` on, and a mask that keeps it."""
    streams, masks = host.streams_of(latent), host.masks_of(latent)
    place = host.place_of(streams, name)
    stream, mask = streams[place], masks[place]
    mask = host.everything(stream) if mask is None else mask
    streams[place], masks[place] = keep(stream, mask, given, at)
    return host.with_streams(latent, streams, masks)


def each(vae: Any, images: Any, latent: dict[str, Any], frames: int) -> Tensor:
    """(n, h, w, 3) -> (n, c, f', h', w'): each picture standing still for that many frames."""
    images, clip = host.pictures_of(images), video_of(latent)
    if len(images) not in (1, len(clip)):
        raise ValueError(
            f"there are {len(images)} pictures for {len(clip)} clips; give one, or one for each, or use "
            "UniTalk Keep Video for a whole clip"
        )
    stills = (still_frames(image, frames - 1) for image in images)
    return torch.cat([codecs.encode_picture(vae, still, clip) for still in stills])


def not_empty(stream: Tensor, what: str, sockets: str) -> Tensor:
    """The stream; ValueError if there is nothing in it that could be kept."""
    if not stream.any():
        raise ValueError(f"the {what} of the latent is empty; connect {sockets}, or the latent of a sampler")
    return stream


def alone(previous: dict[str, Any], images: Any, audio: Any) -> dict[str, Any]:
    """`previous`; ValueError if the clip that goes on was given twice."""
    if images is not None or audio is not None:
        raise ValueError("there are two clips to continue; connect previous, or images and audio, not both")
    return previous


def tell_fitted(before: int, after: int, sample_rate: int) -> None:
    """Show on the node how much silence was added or sound left out."""
    ms = 1000 * (after - before) / sample_rate
    if abs(ms) >= 1:
        host.say(f"{abs(ms):.0f} ms of {'silence added' if ms > 0 else 'sound left out'} at the end")
