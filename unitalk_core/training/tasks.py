"""A task is a choice of what is kept, whether a voice is given, and which stream sees the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Keep = Literal["nothing", "first", "prefix", "all"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """keep_*: what of a stream is given, clean and without loss; couple: (audio_to_video, video_to_audio)."""

    keep_video: Keep = "nothing"
    keep_audio: Keep = "nothing"
    voice: bool = False
    couple: tuple[bool, bool] = (True, True)
    picture: bool = True  # False: the sound stream alone

    @property
    def learns(self) -> tuple[str, ...]:
        """The losses that this task has."""
        video = ("video", "mouth") if self.picture and self.keep_video != "all" else ()
        return (*video, "audio") if self.keep_audio != "all" else video


TASKS = {
    "t2av": Task(),
    "ti2av": Task(keep_video="first"),
    "tr2av": Task(voice=True),
    "tir2av": Task(keep_video="first", voice=True),
    "tv2a": Task(keep_video="all", voice=True, couple=(False, True)),
    "ta2v": Task(keep_audio="all", couple=(True, False)),
    "continue": Task(keep_video="prefix", keep_audio="prefix", voice=True),
    "t2a": Task(picture=False),
    "tr2a": Task(picture=False, voice=True),
}
