"""A new UniTalk model: the picture stream of one file, and a sound stream that is new, or another file's.

The two meet in one joint attention, as in UniTalking. What no file holds is drawn; heads and voices begin
silent, so an untrained sound stream predicts nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..av import AV
from ..config import UNITALK, UNITALK_AUDIO, WAN_VIDEO, ModelConfig, StreamConfig
from ..models.mmdit import JointDiT, initialise
from .files import Entry, load_weights, write_tensors
from .formats import AUDIO, VIDEO
from .loading import read_model, read_sound

NEW = ("twin", "random")  # sound streams that no file holds
SIZES = ("width", "heads", "depth", "ffn_width", "text_dim", "text_len")
ENDS = ("patch_embedding", "head", "reference_embedding")  # a twin has its own, and its own `_ref` layers


class Assembled(NamedTuple):
    """said: what of it is trained and what is not, in words."""

    model: JointDiT
    said: str

    @property
    def dtype(self) -> torch.dtype:
        return self.model.video_model.head.head.weight.dtype


def assemble(
    picture: str | Path, sound: str | Path = "twin", seed: int = 0, dtype: torch.dtype | None = None
) -> Assembled:
    """UniTalking around the picture stream of a file.

    sound: `twin` copies the picture's blocks, `random` draws them; else a file with a sound stream, Ovi's for
    one, of which the layers that read its own picture are left out. dtype: None is the picture file's.
    ValueError or FileNotFoundError for files of which this cannot be made.
    """
    weights, found = read_model(picture, dtype)
    if found.streams.video is None or found.streams.audio is not None:
        lack = "no picture stream" if found.streams.video is None else "a sound stream already"
        raise ValueError(
            f"{picture} has {lack}; name the file of a picture stream alone, such as Wan2.2-TI2V-5B"
        )
    heard = None
    if sound not in NEW:
        own = dtype or weights[f"{VIDEO}head.head.weight"].dtype
        tensors, heard = read_sound(sound, own)
        check_sizes(found.streams.video, heard.streams.audio, sound)
        weights |= tensors
    config = config_for(found.streams.video, heard)
    source = str(picture) if heard is None else f"{picture} + {sound}"
    model = with_new_weights(config, weights, source, seed, twin=sound == "twin")
    return Assembled(model, in_words(model, sound, seed))


def config_for(picture: StreamConfig, heard: ModelConfig | None) -> ModelConfig:
    """heard: of the sound's file; None for a new stream. Both streams hear a reference voice."""
    sizes = {name: getattr(picture, name) for name in SIZES}
    form = UNITALK.format if heard is None else heard.format
    sound = replace(UNITALK_AUDIO, **sizes) if heard is None else heard.streams.audio
    streams = AV(picture, sound).map(lambda one: hearing(one, form.audio_channels))
    return replace(UNITALK, streams=streams, format=form)


def hearing(stream: StreamConfig, channels: int) -> StreamConfig:
    if stream.reference != "none":
        return stream
    return replace(stream, reference="linear", reference_dim=channels)


def check_sizes(picture: StreamConfig, sound: StreamConfig, source: str | Path) -> None:
    """ValueError unless the two can stand in one model."""
    for name in ("width", "heads", "depth", "text_dim", "text_len"):
        ours, theirs = getattr(picture, name), getattr(sound, name)
        if ours != theirs:
            raise ValueError(
                f"the sound stream of {source} has {name} {theirs}, the picture stream {ours}; "
                "take two that agree"
            )


def with_new_weights(
    config: ModelConfig, weights: dict[str, Tensor], source: str, seed: int, twin: bool
) -> JointDiT:
    """A model of these weights; what is missing is drawn; for a twin, copied where it can be."""
    with torch.device("meta"):
        model = JointDiT(config)
    likeness = weights[f"{VIDEO}head.head.weight"]
    drawn = {
        name: torch.empty(one.shape, dtype=likeness.dtype)
        for name, one in model.state_dict().items()
        if name not in weights
    }
    load_weights(model, weights | drawn, source)
    if twin:
        copy_stream(model.video_model, model.audio_model)
    initialise(model, seed, but={*weights, *(twins(drawn) if twin else ())})
    return model.eval()


def twins(names: Collection[str]) -> list[str]:
    """Those of the sound stream's weights that a twin takes over from the picture."""
    return [name for name in names if name.startswith(AUDIO) and not is_own(name.removeprefix(AUDIO))]


def is_own(name: str) -> bool:
    return name.startswith(ENDS) or "_ref." in name


@torch.no_grad()
def copy_stream(source: nn.Module, target: nn.Module, but: tuple[str, ...] = ()) -> None:
    """Make `target` a twin of `source`, but for its ends: input layer, head, and what hears the reference.

    but: parts of names of further weights that the target keeps as they are.
    """
    values = dict(source.named_parameters())
    for name, parameter in target.named_parameters():
        if not is_own(name) and not any(part in name for part in but):
            parameter.copy_(values[name])


def in_words(model: JointDiT, sound: str | Path, seed: int) -> str:
    """What of an assembled model is trained, what is not, and what it makes until it is."""
    silent, picture = untrained(model), model.config.streams.video
    known = all(getattr(picture, name) == getattr(WAN_VIDEO, name) for name in SIZES)
    shown = "Wan2.2-TI2V-5B" if known else f"{picture.depth} blocks of {picture.width}"
    stream = {
        "twin": "a copy of the picture's blocks",
        "random": f"drawn at random (seed {seed})",
    }.get(str(sound), f"that of {Path(sound).name}, without what it read of its own picture")
    made = "a picture, and noise for sound," if "sound" in silent else "picture and sound that do not agree"
    return (
        f"picture: {shown}, {'not ' * ('picture' in silent)}trained; "
        f"sound: {stream}, {'not ' * ('sound' in silent)}trained, {model.config.format.sample_rate} Hz; "
        "voices: not trained, not heard; joint attention: never trained together; "
        f"sampling gives {made} until you train it"
    )


def untrained(model: JointDiT) -> list[str]:
    """Which streams, "picture" and "sound", have a head of zeros: they predict nothing."""
    heads = model.streams.map(lambda stream: stream.head.head.weight)
    named = {"picture": heads.video, "sound": heads.audio}
    return [name for name, head in named.items() if head is not None and not head.any()]


def save_assembled(
    path: str | Path, model: JointDiT, on_tensor: Callable[[int, int], None] | None = None
) -> None:
    """Write a model with its configuration, tensor by tensor. on_tensor(bytes written, of all) follows."""
    state = model.state_dict()
    entries = {name: Entry(one.dtype, tuple(one.shape)) for name, one in state.items()}
    total = sum(one.bytes for one in entries.values())

    def written() -> Iterator[tuple[str, Tensor]]:
        done = 0
        for name, one in state.items():
            yield name, one
            done += entries[name].bytes
            if on_tensor is not None:
                on_tensor(done, total)

    write_tensors(path, entries, written(), {"format": "pt", "unitalk": {"model": model.config.to_json()}})
