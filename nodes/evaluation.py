"""Nodes that judge: how well picture and sound go together, and which of several takes is the best."""

from __future__ import annotations

from typing import Any

from ..unitalk_core.av import Clip
from ..unitalk_core.evaluation.score import Score, best, score, takes_of, words_right
from ..unitalk_core.media import lengths, match_lengths
from . import host
from .host import io

FPS = {
    "default": 25.0,
    "min": 0.0,
    "max": 240.0,
    "step": 0.01,
    "tooltip": "Frames per second: connect the fps of UniTalk Empty Latent.",
}
SEEN = {
    "options": ["motion", "mouth"],
    "default": "motion",
    "tooltip": "motion: of the lower half, for any face. mouth: how open it is, for portraits framed as the "
    "miniature's only.",
}


class UniTalkScore(io.ComfyNode):
    """Numbers that takes are compared by."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkScore",
            display_name="UniTalk Score",
            search_aliases=["lip sync score", "sync check", "measure", "quality"],
            category="UniTalk/evaluation",
            description="Measure how well the picture of a clip moves with its sound, and how loud that is.",
            inputs=[
                io.Image.Input("images", tooltip="The frames of one clip, its face as large as can be."),
                io.Audio.Input("audio", tooltip="Its sound, one or two channels."),
                io.Float.Input("fps", **FPS),
                io.Combo.Input("seen", **SEEN),
                io.String.Input(
                    "speech",
                    multiline=True,
                    default="",
                    optional=True,
                    tooltip="What should be said, or the prompt of UniTalk Text Encode: pocketsphinx, where "
                    "it is installed, listens for its English words.",
                ),
            ],
            outputs=[
                io.Float.Output("sync", display_name="sync", tooltip="-1 to 1; by chance near 0."),
                io.Float.Output("lag", display_name="lag", tooltip="Frames by which the picture is late."),
                io.Float.Output("loudness", display_name="loudness", tooltip="dBFS while there is speech."),
                io.Float.Output("words", display_name="words", tooltip="Share of words heard, 0 to 1."),
                io.String.Output("report", display_name="report", tooltip="All of it in a sentence."),
            ],
        )

    @classmethod
    def execute(cls, images: Any, audio: Any, fps: float, seen: str, speech: str = "") -> io.NodeOutput:
        clip = clip_of(images, audio, fps)
        found, (share, heard) = score(clip, seen), words_in(clip, speech)
        unequal = "" if match_lengths(clip, "trim") is clip else f"{lengths(clip)}: the rest is not judged"
        report = "; ".join(filter(None, [str(found), heard, unequal]))
        host.say(report)
        words = host.nothing() if share is None else share
        return io.NodeOutput(found.sync, float(found.lag), found.loudness, words, report)


class UniTalkPickBest(io.ComfyNode):
    """The take whose picture and sound go together best."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UniTalkPickBest",
            display_name="UniTalk Pick Best",
            search_aliases=["best of n", "best take", "choose take", "lip sync"],
            category="UniTalk/evaluation",
            description="Keep the take of a batch whose picture moves with its sound best, of any model.",
            inputs=[
                io.Image.Input("images", tooltip="The decoded takes, one behind the other, as decoders do."),
                io.Audio.Input("audio", tooltip="Their sounds as a batch, as many as there are takes."),
                io.Float.Input("fps", **FPS),
                io.Combo.Input("seen", **SEEN),
            ],
            outputs=[
                io.Image.Output("images", display_name="images", tooltip="The frames of the best take."),
                io.Audio.Output("audio", display_name="audio", tooltip="Its sound."),
                io.Int.Output("index", display_name="index", tooltip="For UniTalk Latent From Batch."),
                io.Float.Output("sync", display_name="sync", tooltip="Its sync, -1 to 1."),
                io.String.Output("report", display_name="report", tooltip="A line for each take."),
            ],
        )

    @classmethod
    def execute(cls, images: Any, audio: Any, fps: float, seen: str) -> io.NodeOutput:
        takes = clips_of(images, audio, fps)
        scores = [score(one, seen) for one in takes]
        index = best(scores)
        host.say(f"take {index} of {len(takes)}: {scores[index]}")
        sound = host.audio_of(takes[index].waveform[None], takes[index].sample_rate)
        return io.NodeOutput(takes[index].frames, sound, index, scores[index].sync, in_lines(scores, index))


def clips_of(images: Any, audio: Any, fps: float) -> list[Clip]:
    """IMAGE and AUDIO of a batch, take after take; ValueError in one sentence for what cannot be judged."""
    count = 1 if audio is None else max(1, len(audio["waveform"]))
    parts = [audio] if count == 1 else [audio | {"waveform": one[None]} for one in audio["waveform"]]
    heard = [host.waveform_of(one, "judge") for one in parts]
    waveforms = [waveform for waveform, _ in heard]
    return takes_of(host.pictures_of(images), waveforms, host.frame_rate(fps), heard[0][1])


def clip_of(images: Any, audio: Any, fps: float) -> Clip:
    """IMAGE and AUDIO of one clip."""
    waveform, sample_rate = host.waveform_of(audio, "judge")
    return Clip(host.pictures_of(images), waveform, host.frame_rate(fps), sample_rate)


def words_in(clip: Clip, speech: str) -> tuple[float | None, str]:
    """Share of the words that are heard, and that in words; None where nobody listens, with the reason."""
    if not speech.strip():
        return None, ""
    try:
        right, judged = words_right(clip, speech)
    except (ModuleNotFoundError, ValueError) as reason:
        return None, str(reason)
    return right / judged, f"{right} of {judged} words heard"


def in_lines(scores: list[Score], index: int) -> str:
    return "\n".join(f"take {i}: {one}{' <- best' * (i == index)}" for i, one in enumerate(scores))
