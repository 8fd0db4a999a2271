"""Nodes that make what is seen and heard from latents, and join both into a video."""

from __future__ import annotations

from typing import Any

from ..unitalk_core.av import Clip
from ..unitalk_core.media import lengths, match_lengths
from ..unitalk_core.provenance import provenance_tags, words_hash
from ..unitalk_core.subtitles import subtitler
from . import codecs, host
from .graph import Graph, sources
from .host import io


class UniTalkWanVAEDecode(io.ComfyNode):
    """The picture of a joint latent."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkWanVAEDecode",
            display_name="UniTalk Wan VAE Decode",
            search_aliases=["vae decode tiled", "decode video"],
            category="UniTalk/decoding",
            description="Decode the picture of a joint latent, chunk by chunk, and in tiles where asked.",
            inputs=[
                io.Latent.Input("latent", tooltip="From any sampler; its sound is left alone."),
                io.Vae.Input("vae", tooltip="The Wan2.2 VAE from the stock VAELoader, or the miniature's."),
                io.Int.Input(
                    "tile",
                    default=0,
                    min=0,
                    max=4096,
                    step=32,
                    optional=True,
                    tooltip="Pixels of a tile's side: less memory, more time. 0 = the whole picture at once.",
                ),
                io.Int.Input(
                    "overlap",
                    default=64,
                    min=0,
                    max=4096,
                    step=32,
                    optional=True,
                    tooltip="Pixels that neighbouring tiles share and fade over; more hides seams better.",
                ),
            ],
            outputs=[
                io.Image.Output("images", display_name="images", tooltip="All frames, clip after clip.")
            ],
        )

    @classmethod
    def execute(cls, latent: dict[str, Any], vae: Any, tile: int = 0, overlap: int = 64) -> io.NodeOutput:
        return io.NodeOutput(codecs.decode_picture(vae, host.stream_of(latent, "video"), tile, overlap))


class UniTalkBigVGANVocode(io.ComfyNode):
    """The sound of a joint latent."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkBigVGANVocode",
            display_name="UniTalk BigVGAN Vocode",
            search_aliases=["vae decode audio", "vocoder", "decode sound"],
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
        sound = host.stream_of(latent, "audio")
        rate = codecs.audio_codec_for(audio_vae, sound).sample_rate
        waveform = audio_vae.decode(sound).movedim(-1, 1)
        return io.NodeOutput(host.audio_of(waveform, rate))


class UniTalkMuxAV(io.ComfyNode):
    """Picture and sound become one video, if they fit."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkMuxAV",
            display_name="UniTalk Mux AV",
            search_aliases=["create video", "combine audio video", "subtitles", "srt"],
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
                io.String.Input(
                    "speech",
                    multiline=True,
                    default="",
                    optional=True,
                    tooltip="What is said, for subtitles: the speech, or the prompt of UniTalk Text Encode.",
                ),
                io.Combo.Input(
                    "subtitles",
                    options=["none", "track", "srt"],
                    default="none",
                    optional=True,
                    tooltip="track: inside the saved mp4, for players to switch on. srt: a file beside it.",
                ),
                io.Boolean.Input(
                    "provenance",
                    default=True,
                    optional=True,
                    tooltip="Write into the saved file that AI made it, with models, seeds and a hash of the "
                    "words.",
                ),
            ],
            outputs=[
                io.Video.Output(display_name="video", tooltip="For the stock SaveVideo."),
                io.String.Output(
                    "report", display_name="report", tooltip="Both lengths and their difference in ms."
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        images: Any,
        audio: Any,
        fps: float,
        on_mismatch: str,
        speech: str = "",
        subtitles: str = "none",
        provenance: bool = True,
    ) -> io.NodeOutput:
        waveform, sample_rate = host.waveform_of(audio, purpose="join with the picture")
        clip = Clip(host.frames_of(images), waveform, host.frame_rate(fps), sample_rate)
        fitted = match_lengths(clip, on_mismatch)
        report = lengths(clip) if fitted is clip else f"{lengths(clip)}; {on_mismatch}: {lengths(fitted)}"
        host.say(report)
        tags = told_sources(*host.running(cls)) if provenance else {}
        subtitle = None if subtitles == "none" else subtitler(subtitles, speech, fitted)
        return io.NodeOutput(host.TaggedVideo(fitted, tags, subtitle), report)


def told_sources(graph: Graph, node: str) -> dict[str, Any]:
    """Tags that say what in the graph made the clip."""
    models, seeds, words = sources(graph, node)
    return provenance_tags(models, seeds, [words_hash(*one) for one in words])
