"""Nodes that make what is seen and heard from latents, and join both into a video."""

from __future__ import annotations

from typing import Any

from ..unitalk_core.av import Clip
from ..unitalk_core.media import match_lengths
from . import codecs, host
from .host import io


class UniTalkWanVAEDecode(io.ComfyNode):
    """The picture of a joint latent."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkWanVAEDecode",
            display_name="UniTalk Wan VAE Decode",
            category="UniTalk/decoding",
            description="Decode the picture of a joint latent, chunk by chunk.",
            inputs=[
                io.Latent.Input("latent", tooltip="From any sampler; its sound is left alone."),
                io.Vae.Input("vae", tooltip="The Wan2.2 VAE from the stock VAELoader, or the miniature's."),
            ],
            outputs=[
                io.Image.Output("images", display_name="images", tooltip="All frames, clip after clip.")
            ],
        )

    @classmethod
    def execute(cls, latent: dict[str, Any], vae: Any) -> io.NodeOutput:
        return io.NodeOutput(codecs.decode_picture(vae, host.stream_of(latent, "video")))


class UniTalkBigVGANVocode(io.ComfyNode):
    """The sound of a joint latent."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkBigVGANVocode",
            display_name="UniTalk BigVGAN Vocode",
            category="UniTalk/decoding",
            description="Decode the sound of a joint latent with the vocoder of its VAE; loudness is kept.",
            inputs=[
                io.Latent.Input("latent", tooltip="From any sampler; its picture is left alone."),
                io.Vae.Input("audio_vae", tooltip="From UniTalk Load Audio VAE or UniTalk Load Embedded."),
            ],
            outputs=[io.Audio.Output(display_name="audio")],
        )

    @classmethod
    def execute(cls, latent: dict[str, Any], audio_vae: Any) -> io.NodeOutput:
        rate = codecs.audio_codec_of(audio_vae).sample_rate
        waveform = audio_vae.decode(host.stream_of(latent, "audio")).movedim(-1, 1)
        return io.NodeOutput(host.audio_of(waveform, rate))


class UniTalkMuxAV(io.ComfyNode):
    """Picture and sound become one video, if they fit."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkMuxAV",
            display_name="UniTalk Mux AV",
            category="UniTalk/decoding",
            description="Join picture and sound. A difference in length is named in ms, not hidden.",
            inputs=[
                io.Image.Input("images", tooltip="The frames of one clip; width and height even."),
                io.Audio.Input("audio", tooltip="Its sound, one or two channels."),
                io.Float.Input(
                    "fps",
                    default=25.0,
                    min=0.0,
                    max=240.0,
                    step=0.01,
                    tooltip="Frames per second: connect the fps of UniTalk Empty Latent.",
                ),
                io.Combo.Input(
                    "on_mismatch",
                    options=["error", "pad", "trim"],
                    default="error",
                    tooltip="When the lengths differ by more than one frame: stop and say by how much, fill "
                    "the shorter with silence or its last frame, or cut the longer.",
                ),
            ],
            outputs=[io.Video.Output(display_name="video", tooltip="For the stock SaveVideo.")],
        )

    @classmethod
    def execute(cls, images: Any, audio: Any, fps: float, on_mismatch: str) -> io.NodeOutput:
        waveform, sample_rate = host.waveform_of(audio, purpose="join with the picture")
        clip = Clip(host.frames_of(images), waveform, host.frame_rate(fps), sample_rate)
        return io.NodeOutput(host.video_of(match_lengths(clip, on_mismatch)))
