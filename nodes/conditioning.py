"""Nodes that turn words and a voice into CONDITIONING."""

from __future__ import annotations

from typing import Any

from ..unitalk_core.excerpt import LONGEST, voice_seconds
from ..unitalk_core.models.markup import build_prompt
from . import codecs, host
from .host import io


class UniTalkTextEncode(io.ComfyNode):
    """What is seen, said and heard, in the checkpoint's own speech markup."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkTextEncode",
            display_name="UniTalk Text Encode",
            search_aliases=["prompt", "speech", "lip sync", "dialogue"],
            category="UniTalk/conditioning",
            description="Write scene, speech and sound in the markup of the checkpoint, and encode them.",
            inputs=[
                io.Clip.Input(
                    "clip",
                    tooltip="The miniature's text encoder, or the stock CLIPLoader of type wan (umT5).",
                ),
                io.String.Input(
                    "scene", multiline=True, default="", tooltip="What is seen. It is not spoken."
                ),
                io.String.Input(
                    "speech",
                    multiline=True,
                    default="",
                    tooltip="What is said, word for word. Here as in the others, (word:1.2) is a weight.",
                ),
                io.String.Input(
                    "sound", multiline=True, default="", tooltip="What is heard: voice, room, noises."
                ),
                io.Combo.Input(
                    "markup",
                    options=["auto", "unitalk", "ovi-720", "ovi-960", "phonemes"],
                    default="auto",
                    tooltip="How the checkpoint was taught to tell speech from scene. auto: what the text "
                    "encoder says, else UniTalking's; choose ovi-720 or ovi-960 for Ovi.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="conditioning"),
                io.String.Output(
                    "prompt", display_name="prompt", tooltip="The finished prompt, tags included."
                ),
            ],
        )

    @classmethod
    def execute(cls, clip: Any, scene: str, speech: str, sound: str, markup: str) -> io.NodeOutput:
        written = codecs.markup_of(clip) if markup == "auto" else markup
        prompt = build_prompt(written, scene, speech, sound)
        conditioning = codecs.encode_text(clip, prompt)
        codecs.show_left_out(clip, prompt)
        if sound.strip():  # the model refuses a markup that it does not read
            conditioning = host.with_values(conditioning, {"markup": written})
        return io.NodeOutput(conditioning, prompt)


class UniTalkNegativeEncode(io.ComfyNode):
    """What each stream is led away from."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkNegativeEncode",
            display_name="UniTalk Negative Encode",
            search_aliases=["negative prompt", "audio negative"],
            category="UniTalk/conditioning",
            description="What shall not be seen and what shall not be heard: each stream gets its own text.",
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder that encodes the positive."),
                io.String.Input(
                    "picture", multiline=True, default="", tooltip="What shall not be seen; for the picture."
                ),
                io.String.Input(
                    "sound", multiline=True, default="", tooltip="How it shall not sound; for the sound."
                ),
            ],
            outputs=[io.Conditioning.Output(display_name="negative", tooltip="For any sampler.")],
        )

    @classmethod
    def execute(cls, clip: Any, picture: str, sound: str) -> io.NodeOutput:
        negative = codecs.encode_negative(clip, picture, sound)
        codecs.show_left_out(clip, picture, sound)
        return io.NodeOutput(negative)


class UniTalkReferenceAudioEncode(io.ComfyNode):
    """A voice to speak with."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkReferenceAudioEncode",
            display_name="UniTalk Reference Audio Encode",
            search_aliases=["voice clone", "voice reference", "speaker"],
            category="UniTalk/conditioning",
            description="Take a voice from 3 to 5 seconds of clean speech and give it to the conditioning.",
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="The encoded text."),
                io.Vae.Input("audio_vae", tooltip="The audio VAE that the model was trained with."),
                io.Audio.Input("audio", tooltip="One voice, without music; any rate, any length from 0.5 s."),
                io.Combo.Input(
                    "stretch",
                    options=["longest voiced", "from start"],
                    default="longest voiced",
                    optional=True,
                    tooltip="Of a long recording: the longest stretch in which somebody speaks, found in its "
                    "first minute, or what begins at start.",
                ),
                io.Float.Input(
                    "start",
                    default=0.0,
                    min=0.0,
                    max=86400.0,
                    step=0.01,
                    optional=True,
                    tooltip="Seconds into the recording, for from start.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The model that will hear it: no more is taken than it hears. Without it, 5 s.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="conditioning"),
                io.String.Output(
                    "used", display_name="used", tooltip="Which seconds were taken, in which form."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        conditioning: Any,
        audio_vae: Any,
        audio: Any,
        stretch: str = "longest voiced",
        start: float = 0.0,
        model: Any = None,
    ) -> io.NodeOutput:
        longest = LONGEST if model is None else voice_seconds(host.config_of(model))
        begin = start if stretch == "from start" else None
        reference, used = codecs.encode_voice(audio_vae, audio, longest, begin)
        host.say(used)
        return io.NodeOutput(host.with_values(conditioning, {"reference": reference}), used)
