"""The adapter: what the nodes ask of ComfyUI besides its model class, and its types as the core's and back.

LATENT carries {"samples": NestedTensor([video (b, 48, f, h, w), audio (b, c, n)])}: the picture as the Wan2.2
VAE writes it (not normalised), the sound as the audio VAE writes it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.model_management
import comfy.nested_tensor
import comfy.utils
import folder_paths
import latent_preview
import node_helpers
import torch
from comfy.cli_args import args
from comfy_api.latest import ComfyExtension, InputImpl, Types, io
from comfy_execution.graph_utils import ExecutionBlocker
from comfy_execution.utils import get_executing_context
from PIL import Image
from server import PromptServer
from torch import Tensor

from ..unitalk_core.av import AV, Clip
from ..unitalk_core.config import ModelConfig

__all__ = ["ComfyExtension", "io"]  # the host's API, imported by the nodes from here

FOLDERS = {"model": "diffusion_models", "vae": "vae", "text": "text_encoders", "lora": "loras"}
PREVIEW = 512  # pixels of the longer side
NTSC = tuple(Fraction(1000 * rate, 1001) for rate in (24, 30, 48, 60, 120))  # what 23.98, 29.97 ... stand for
ROUNDING = 0.005  # an fps is typed with two digits behind the point


# --- files and models ------------------------------------------------------------------------------------


def files(kind: str) -> list[str]:
    """Names of the files a user has put into the host's folder of that kind; large ones may lie in shards."""
    names = folder_paths.get_filename_list(FOLDERS[kind])
    return sorted([*names, *indexes(FOLDERS[kind])]) if kind in ("model", "text") else names


def indexes(folder: str) -> list[str]:
    """Tables of contents of files in shards, which the host does not list."""
    places = [Path(place) for place in folder_paths.get_folder_paths(folder)]
    found = [(place, path) for place in places for path in place.rglob("*.safetensors.index.json")]
    return [str(path.relative_to(place)) for place, path in found]


def path_of(kind: str, name: str) -> Path:
    return Path(folder_paths.get_full_path_or_raise(FOLDERS[kind], name))


def input_path(text: str) -> Path:
    """A folder as a user writes it: a whole path, in quotes or not, or one inside the host's input folder."""
    if not text.strip():
        raise ValueError("there is no folder; give the path of the folder with your clips")
    return Path(folder_paths.get_input_directory(), Path(text.strip().strip("\"'")).expanduser())


def output_folder() -> Path:
    return Path(folder_paths.get_output_directory())


def next_output(prefix: str, suffix: str) -> tuple[Path, dict[str, str]]:
    """A new numbered file in the output folder: its path, and how the host shows it to the browser."""
    folder, name, number, subfolder, _ = folder_paths.get_save_image_path(prefix, str(output_folder()))
    path = Path(folder, f"{name}_{number:05}_{suffix}")
    return path, {"filename": path.name, "subfolder": subfolder, "type": "output"}


def output_files(suffix: str) -> list[str]:
    """Files of that ending in the input and output folders, and in `latents` there, with the host's marks."""
    folders = {"": Path(folder_paths.get_input_directory()), " [output]": output_folder()}
    return [
        path.relative_to(folder).as_posix() + mark
        for mark, folder in folders.items()
        for path in sorted([*folder.glob(f"*{suffix}"), *folder.glob(f"latents/**/*{suffix}")])
    ]


def marked_path(name: str) -> Path:
    """The path of a file that `output_files` named."""
    return Path(folder_paths.get_annotated_filepath(name))


def graph_of(hidden: Any) -> dict[str, Any]:
    """The graph that makes a file, to be written into it, unless the user started the host without that."""
    if args.disable_metadata or hidden is None or hidden.prompt is None:
        return {}
    return {"prompt": hidden.prompt, **(hidden.extra_pnginfo or {})}


def temporary_folder() -> Path:
    return Path(folder_paths.get_temp_directory())


def config_of(model: Any) -> ModelConfig:
    """The configuration of a MODEL; ValueError for a model that is not ours."""
    config = getattr(model.model, "unitalk", None)
    if config is None:
        name = type(model.model).__name__
        raise ValueError(f"this node takes a UniTalk model, got {name}; load one with UniTalk Load Model")
    return config


# --- latents ---------------------------------------------------------------------------------------------


def by_rank(tensors: list[Tensor]) -> AV[Tensor | None]:
    """(b, c, f, h, w) is picture, (b, c, n) is sound; ValueError for any other rank."""
    ranks = {tensor.ndim: tensor for tensor in tensors}
    if not ranks.keys() <= {3, 5} or len(ranks) != len(tensors):
        shapes = " and ".join(str(tuple(tensor.shape)) for tensor in tensors)
        raise ValueError(
            f"a UniTalk latent is (b, c, f, h, w) and (b, c, n), got {shapes}; use UniTalk Empty Latent"
        )
    if len(tensors) == 2 and tensors[0].ndim == 3:
        raise ValueError("the sound stands before the picture; put them together with UniTalk Join Latent")
    clips_of(tensors)
    return AV(ranks.get(5), ranks.get(3))


def clips_of(streams: Sequence[Tensor]) -> int:
    """How many clips there are; ValueError if the streams do not agree."""
    counts = {len(one) for one in streams}
    if len(counts) > 1:
        found = " and ".join(str(len(one)) for one in streams)
        raise ValueError(f"the streams hold {found} clips; make them as many with UniTalk Repeat Latent")
    return counts.pop()


def unnested(value: Any) -> AV[Tensor | None]:
    """Nested or plain samples -> (video, audio); a stream that is not there is None."""
    return by_rank(value.unbind() if getattr(value, "is_nested", False) else [value])


def nested(streams: AV[Tensor | None]) -> Any:
    """What the host calls samples: both streams nested, or the only one."""
    present = streams.present()
    return comfy.nested_tensor.NestedTensor(present) if len(present) > 1 else present[0]


def streams_of(latent: dict[str, Any]) -> list[Tensor]:
    """The streams of any LATENT, of other models too: picture first, sound last."""
    samples = latent["samples"]
    return list(samples.unbind()) if getattr(samples, "is_nested", False) else [samples]


def av_of(latent: dict[str, Any]) -> AV[Tensor | None]:
    """The streams of any model's LATENT by name: two are picture, then sound; one says what it is."""
    streams = streams_of(latent)
    if len(streams) > 2:
        raise ValueError(f"this latent has {len(streams)} streams; give one with a picture and a sound")
    if len(streams) == 2:
        return AV(*streams)
    sound = streams[0].ndim == 3 or latent.get("type") == "audio"
    return AV(None, *streams) if sound else AV(*streams, None)


def masks_of(latent: dict[str, Any]) -> list[Tensor | None]:
    """The noise mask of each stream, (b, 1, ...) with 1 = generate, as large as the stream; None if absent.

    A plain mask is the first stream's, as the host's samplers have it.
    """
    streams, given = streams_of(latent), latent.get("noise_mask")
    masks = [] if given is None else streams_of({"samples": given})
    if len(masks) > len(streams):
        raise ValueError(
            f"the noise mask of this latent has {len(masks)} streams, the latent itself {len(streams)}: "
            "take both from one node, such as UniTalk Join Latent"
        )
    masks += [None] * (len(streams) - len(masks))
    return [
        None if mask is None else comfy.utils.reshape_mask(mask.float(), stream.shape)[:, :1]
        for mask, stream in zip(masks, streams, strict=True)
    ]


def everything(stream: Tensor) -> Tensor:
    """The mask (1, 1, ...) of a stream that is generated whole."""
    return torch.ones(1, 1, *stream.shape[2:], device=stream.device)


def as_samples(streams: Sequence[Tensor]) -> Any:
    """Streams as the host nests them, a single one as it is; on the device that goes from node to node."""
    moved = [one.to(comfy.model_management.intermediate_device()) for one in streams]
    return comfy.nested_tensor.NestedTensor(moved) if len(moved) > 1 else moved[0]


def with_streams(latent: dict[str, Any], streams: list[Tensor], masks: list[Tensor | None]) -> dict[str, Any]:
    """LATENT with other streams and masks; what else it carries stays."""
    made = {name: value for name, value in latent.items() if name != "noise_mask"} | {
        "samples": as_samples(streams)
    }
    if any(mask is not None for mask in masks):
        pairs = zip(streams, masks, strict=True)
        made["noise_mask"] = as_samples([everything(one) if mask is None else mask for one, mask in pairs])
    return made


def resized(stream: Tensor, width: int, height: int, method: str) -> Tensor:
    """(b, c, f, h, w) -> (b, c, f, height, width), by a method of the host's upscalers."""
    return comfy.utils.common_upscale(stream, width, height, method, "disabled")


def place_of(streams: list[Tensor], name: str) -> int:
    """Which stream is the picture ("video") or the sound ("audio"); ValueError if there is none."""
    place = 0 if name == "video" else len(streams) - 1
    if (streams[place].ndim == 5) is not (name == "video"):
        raise ValueError(f"the latent has no {name} stream; connect the one of UniTalk Empty Latent")
    return place


def stream_of(latent: dict[str, Any], name: str) -> Tensor:
    """One stream of a LATENT; ValueError if it is absent or holds NaN."""
    stream = getattr(unnested(latent["samples"]), name)
    if stream is None:
        raise ValueError(
            f"the latent has no {name} stream; begin with UniTalk Empty Latent, and decode what is sampled"
        )
    if not torch.isfinite(stream).all():
        raise ValueError(f"the {name} latent holds NaN or infinity; sample it again with other settings")
    return stream


def travelling(streams: AV[Tensor | None]) -> AV[Tensor | None]:
    """On the device where the host keeps what goes from node to node."""
    return streams.map(lambda one: one.to(comfy.model_management.intermediate_device()))


def picture_scaling() -> Any:
    """The Wan2.2 statistics: `process_in` normalises a picture latent, `process_out` undoes it."""
    return comfy.latent_formats.Wan22()


def with_values(conditioning: Any, values: dict[str, Any]) -> Any:
    """CONDITIONING with `values` added to each entry."""
    return node_helpers.conditioning_set_values(conditioning, values)


# --- sound and video -------------------------------------------------------------------------------------


def waveform_of(audio: dict[str, Any] | None, purpose: str, channels: int | None = 2) -> tuple[Tensor, int]:
    """AUDIO -> ((channels, samples), sample_rate); ValueError in one sentence for what cannot be used.

    channels: how many there may be; None is any number.
    """
    if audio is None:
        raise ValueError(
            f"there is no audio to {purpose}: the video it came from has no sound; take that of LoadAudio"
        )
    waveform, sample_rate = audio["waveform"], int(audio["sample_rate"])
    if waveform.ndim != 3 or not waveform.numel() or sample_rate <= 0:
        shape = tuple(waveform.shape)
        raise ValueError(
            f"the audio to {purpose} is empty: waveform {shape} at {sample_rate} Hz; take that of LoadAudio"
        )
    if waveform.shape[0] > 1:
        raise ValueError(f"the audio to {purpose} holds {waveform.shape[0]} clips; give one clip at a time")
    if channels is not None and waveform.shape[1] > channels:
        raise ValueError(f"the audio to {purpose} has {waveform.shape[1]} channels; mix it to one or two")
    return waveform[0], sample_rate


def pictures_of(images: Tensor | None) -> Tensor:
    """IMAGE -> (f, h, w, 3) in 0..1; ValueError if it is no picture."""
    if images is None or images.ndim != 4 or not images.numel() or images.shape[-1] not in (3, 4):
        shape = None if images is None else tuple(images.shape)
        raise ValueError(f"the picture must be frames (f, h, w, 3), got {shape}; connect decoded images")
    return images[..., :3]


def frames_of(images: Tensor) -> Tensor:
    """IMAGE -> (f, h, w, 3) in 0..1; ValueError for what h264 cannot hold."""
    images = pictures_of(images)
    height, width = images.shape[1:3]
    if width % 2 or height % 2:
        raise ValueError(
            f"h264 needs an even width and height, got {width} x {height}; "
            f"crop the picture to {width - width % 2} x {height - height % 2}"
        )
    return images


def audio_of(waveform: Tensor, sample_rate: int) -> dict[str, Any]:
    """(b, channels, samples) -> AUDIO"""
    return {"waveform": waveform.float().cpu(), "sample_rate": int(sample_rate)}


def frame_rate(fps: float) -> Fraction:
    """fps as the fraction that it stands for, 29.97 as 30000/1001; ValueError for what is no frame rate."""
    if not (math.isfinite(fps) and 1 <= fps <= 240):
        raise ValueError(f"fps must be from 1 to 240, got {fps:g}; connect the fps of UniTalk Empty Latent")
    ntsc = next((rate for rate in NTSC if abs(fps - rate) < ROUNDING), None)
    return ntsc or Fraction(fps).limit_denominator(1001)


class TaggedVideo(InputImpl.VideoFromComponents):
    """A VIDEO that takes tags and subtitles along to wherever it is saved.

    subtitle: called with the path of the mp4 once it is written.
    """

    def __init__(self, clip: Clip, tags: dict[str, Any], subtitle: Callable[[Path], Any] | None) -> None:
        audio = audio_of(clip.waveform[None], clip.sample_rate)
        super().__init__(Types.VideoComponents(images=clip.frames, audio=audio, frame_rate=clip.fps))
        self.tags, self.subtitle = tags, subtitle

    def save_to(
        self,
        path: Any,
        format: Any = Types.VideoContainer.AUTO,
        codec: Any = Types.VideoCodec.AUTO,
        metadata: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """As the host saves it, with the tags among its metadata. A stream gets no subtitles."""
        super().save_to(path, format, codec, self.tags | (metadata or {}), **options)
        if self.subtitle is not None and isinstance(path, str | os.PathLike):
            self.subtitle(Path(path))


def video_file(path: Path) -> Any:
    """A file as VIDEO"""
    return InputImpl.VideoFromFile(str(path))


def nothing() -> Any:
    """An output that is not there: nodes that it is connected to are left out."""
    return ExecutionBlocker(None)


# --- progress --------------------------------------------------------------------------------------------


def progress(steps: int) -> Callable[..., None]:
    """A progress bar of `steps`: report(done) moves it, and lets the user stop.

    report(done, of, picture): of another number of steps, with a picture (PIL) that the node then shows.
    """
    bar = comfy.utils.ProgressBar(steps)

    def report(done: int, of: int | None = None, picture: Image.Image | None = None) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, of, None if picture is None else ("JPEG", picture, PREVIEW))

    return report


def interrupted() -> bool:
    """Whether the user has pressed stop, again if it was heard before."""
    return comfy.model_management.processing_interrupted()


def say(text: str) -> None:
    """Show a line on the node that runs."""
    context, server = get_executing_context(), getattr(PromptServer, "instance", None)
    if context is not None and server is not None:
        server.send_progress_text(text, context.node_id)


def model_shift(model: Any) -> float:
    """The flow shift of a MODEL, after any ModelSampling node; ValueError for a model without one."""
    shift = getattr(model.get_model_object("model_sampling"), "shift", None)
    if shift is None:
        raise ValueError("this model has no flow shift; give a shift above 0")
    return float(shift)


def running(node: type[io.ComfyNode]) -> tuple[dict[str, Any], str]:
    """The graph that runs, and the id of this node in it; empty outside of one. For nodes that hide both."""
    hidden = node.hidden
    return (hidden.prompt or {}, str(hidden.unique_id)) if hidden is not None else ({}, "")


def sampling_options(model: Any, steps: int) -> dict[str, Any]:
    """Progress, preview and console bar, as the stock samplers have them."""
    return {
        "callback": latent_preview.prepare_callback(model, steps),
        "disable_pbar": not comfy.utils.PROGRESS_BAR_ENABLED,
    }


# --- other processes -------------------------------------------------------------------------------------


def make_room() -> None:
    """Free the device for a child process: the host loads its models again when it needs them."""
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()


def device() -> str:
    """Where the host computes, as torch names it."""
    return str(comfy.model_management.get_torch_device())


def child_environment() -> dict[str, str]:
    """What tells a child process to keep to the CPU when the host does."""
    return {"CUDA_VISIBLE_DEVICES": ""} if device() == "cpu" else {}
