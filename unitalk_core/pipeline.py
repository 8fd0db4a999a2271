"""The reference path from words to a clip: `generate(bundle, request)`. The rest are its steps.

b batch · c channels · f latent frames · h, w latent rows, columns · n audio latents or samples
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from .av import AV, Clip, ClipFormat, ClipStream, draw_noise
from .compiled import check_compiler, compile_blocks
from .config import ModelConfig
from .diffusion.cache import Reuse
from .diffusion.denoiser import Conditioning, Denoiser
from .diffusion.samplers import SAMPLERS, WHOLE_TIMESTEPS
from .diffusion.schedules import SCHEDULES, sigma_at
from .excerpt import MIN_VOICE, SILENT, take_voice, voice_seconds
from .folder import find_files
from .footprint import at_once
from .kept import keep, still_frames
from .media import fill_frames
from .models.attention import attention_by, check_backend
from .models.float8 import Float8, check_fast, hold_in_float8
from .models.markup import build_prompt
from .models.mmdit import always
from .models.text import ReadingOnce
from .models.voices import Voices
from .request import Request, check_request
from .seam import end_of, joined_stream, seen_frames
from .staged import StagedBundle, choose_offload
from .weights.loading import EMBEDDED, EMBEDDED_FILES, describe, load_embedded, stored_config
from .weights.lora import apply_lora, read_lora, read_strengths

log = logging.getLogger("unitalk")

Latents = AV[Tensor | None]
Change = Callable[[nn.Module], None]
Part = tuple[Tensor, int]  # latents that are given, and where they begin in time
OnStep = Callable[[int, Latents], None]
Offloading = Literal["auto", "none", "parts", "blocks"]

TINY = "tiny"
EMBEDDED_VARIABLE = "UNITALK_EMBEDDED"
TINY_SHOWN = 4  # the miniature's 64 x 64 are shown as 256 x 256


@dataclass(frozen=True)
class Bundle:
    """A model and all that it needs to make clips. `shown`: how many times larger its picture is shown."""

    model: nn.Module
    config: ModelConfig
    video_vae: Any
    audio_codec: Any
    text_encoder: Any
    shown: int = 1
    offload: ClassVar[Offloading] = "none"  # all is there

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def change(self, change: Change) -> None:
        """Do something to the transformer, for good."""
        change(self.model)

    def attach(self, change: Change) -> None:
        """Do something around the transformer, and nothing to its weights."""
        change(self.model)


@dataclass
class Trace:
    """What a run leaves besides the clip: seconds by stage, the finished latents, what it cost."""

    seconds: dict[str, float] = field(default_factory=dict)
    latents: Latents | None = None
    passes: int = 0  # through the network
    reuse: Reuse | None = None

    def counting(self, model: Callable[..., Latents]) -> Callable[..., Latents]:
        """The model, with its passes counted here."""

        def count(*args: Any, **kwargs: Any) -> Latents:
            velocity = model(*args, **kwargs)
            self.passes += len(velocity.present()[0])  # a batch of passes counts as many
            return velocity

        return count

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the seconds of what is done here, without those of the stages inside it."""
        start, counted = time.perf_counter(), sum(self.seconds.values())
        yield
        inside = sum(self.seconds.values()) - counted
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start - inside

    def each(self, name: str, parts: Iterator[Tensor]) -> Iterator[Tensor]:
        """The parts, and the making of each counted."""
        while True:
            with self.stage(name):
                part = next(parts, None)
            if part is None:
                return
            yield part


def load_bundle(
    name: str = TINY,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    offload: Offloading = "auto",
    float8: Float8 | None = None,
) -> Bundle | StagedBundle:
    """Everything that makes clips: "tiny", the miniature of the pack, or a folder with files like its own, or
    with the published files of a full-size model (`find_files`).

    device: of full size by default the GPU, where there is one. dtype: of all but sound codecs, by default
    bfloat16 on a GPU and float32 on a CPU. offload: as `StagedBundle`; "auto" keeps what fits on the device.
    float8: the matrices of the transformer's blocks in a byte each, the rest in `dtype`.
    The environment variable UNITALK_EMBEDDED names another folder for "tiny". Raises FileNotFoundError for
    missing files, ValueError for damaged or foreign ones, or for a device that is not there.
    """
    folder = Path(os.environ.get(EMBEDDED_VARIABLE, EMBEDDED) if name == TINY else name)
    if folder.is_file():
        holds = ", ".join(describe(folder)["holds"]) or "nothing this project knows"
        raise ValueError(
            f"{folder} holds {holds}; a clip needs tiny, or a folder with all that makes clips, "
            f"such as {', '.join(EMBEDDED_FILES)}"
        )
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no model {folder}; use tiny, or a folder with all that makes clips, "
            f"such as {', '.join(EMBEDDED_FILES)}"
        )
    small = name == TINY or is_miniature(folder)
    usual = "cuda" if torch.cuda.is_available() and not small else "cpu"
    place = check_device(device or usual)
    dtype = dtype or (torch.float32 if place.type == "cpu" else torch.bfloat16)
    if float8 == "fast":
        check_fast(place)
    if not small:
        files = find_files(folder)
        chosen = choose_offload(files, place, dtype, float8) if offload == "auto" else offload
        return StagedBundle(files, place, dtype, chosen, float8)
    if offload in ("parts", "blocks"):
        raise ValueError(f"{folder} is a miniature, which is small and stays in memory; leave out offload")
    parts = load_embedded(folder)
    for part in (parts.model, parts.video_vae):
        part.to(dtype)
    if float8 is not None:
        hold_in_float8(parts.model.requires_grad_(False), float8)
    for part in (parts.model, parts.video_vae, parts.audio_codec, parts.text_encoder):
        part.to(place)
    return Bundle(*parts, shown=TINY_SHOWN)


def is_miniature(folder: Path) -> bool:
    """Whether a folder holds files as the miniature's: its model carries its text encoder."""
    model = folder / EMBEDDED_FILES[0]
    return model.is_file() and "text_encoder" in stored_config(model)


def check_device(name: str) -> torch.device:
    """The device; ValueError if it is not there."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # what torch says where it was built without a device
        raise ValueError(f"there is no device {name} here ({str(error).splitlines()[0]}); use cpu") from error


def attend_by(bundle: Bundle | StagedBundle, backend: str) -> None:
    """Attend with one kernel alone (`attention.BACKENDS`); ValueError if the device does not have it."""
    stream = bundle.config.streams.present()[0]
    check_backend(backend, stream.width // stream.heads, bundle.device, bundle.dtype)
    bundle.attach(partial(always, attention=attention_by(backend)))


def compile_bundle(bundle: Bundle | StagedBundle) -> None:
    """Compile the blocks of the transformer; ValueError where that cannot be."""
    if bundle.offload == "blocks":
        raise ValueError("blocks that come one by one cannot be compiled; leave one of the two out")
    check_compiler(bundle.device)
    bundle.attach(compile_blocks)


def add_lora_file(bundle: Bundle, path: str | Path, strengths: str = "") -> None:
    """Add a LoRA to the bundle's model for good. FileNotFoundError, or ValueError if it does not fit.

    strengths: as `read_strengths` takes them, such as `0.8` or `0.8,sound:0`.
    """
    strength = read_strengths(strengths)
    bundle.change(partial(apply_lora, tensors=read_lora(path), strength=strength, source=path))


def generate(
    bundle: Bundle, request: Request, on_step: OnStep | None = None, trace: Trace | None = None
) -> Clip:
    """Make the clip. ValueError of one sentence before work starts, or when a latent is no longer finite.

    on_step(i, denoised) is called after each step; what it raises ends the run. `trace` is filled in.
    """
    return generate_stream(bundle, request, on_step, trace).whole()


def generate_stream(
    bundle: Bundle, request: Request, on_step: OnStep | None = None, trace: Trace | None = None
) -> ClipStream:
    """The same clip, whose picture is decoded part by part when it is asked for."""
    trace = trace or Trace()
    sample_latents(bundle, request, on_step, trace)
    return decode_request(bundle, request, trace)


def decode_request(bundle: Bundle, request: Request, trace: Trace) -> ClipStream:
    """The clip of the latents that `sample_latents` left in the trace, with what was given as it was."""
    frames = check_request(bundle.config, request)
    clip = decode_stream(bundle, made(trace.latents, request), frames, trace)
    return with_given(clip, bundle.config.format, request)


@torch.no_grad()
def sample_latents(bundle: Bundle, request: Request, on_step: OnStep | None, trace: Trace) -> None:
    """Leave the latents of a clip in the trace."""
    frames = check_request(bundle.config, request)
    with trace.stage("text"):
        cond, uncond = encode_conditions(bundle, request)
    with trace.stage("sample"):
        shape = clip_shape(bundle.config, frames, request)
        noise = draw_noise(shape, request.seeds).map(lambda one: one.to(bundle.device))
        clean, mask = kept_parts(bundle, request, noise)
        shift = request.shift or bundle.config.shift
        if request.cache is not None:
            trace.reuse = Reuse(request.cache, partial(sigma_at, shift=shift))
        denoiser = Denoiser(
            model=trace.counting(ReadingOnce(bundle.model)),
            cond=cond,
            uncond=uncond,
            guidance=request.guidance,
            clean=clean,
            denoise_mask=mask,
            couple=request.couple,
            integer_timesteps=request.sampler in WHOLE_TIMESTEPS,
            shift=shift,
            reuse=trace.reuse,
            dtype=bundle.dtype,
            together=at_once(request.passes, bundle.config, shape, bundle.device, bundle.dtype),
        )
        sigmas = SCHEDULES[request.sampler](request.steps, shift)
        latents = SAMPLERS[request.sampler](denoiser, noise, sigmas, watched(on_step, request.steps))
        trace.latents = check_finite(denoiser.keep(latents), "at the end of sampling")


def clip_shape(config: ModelConfig, frames: int, request: Request) -> AV[tuple[int, ...] | None]:
    """Shapes of the latents, (1, c, f, h, w) and (1, c, n); None for a stream the model does not have."""
    shape = config.format.latent_shape(frames, request.width, request.height)
    shape = config.streams.map(lambda _, size: size, shape)
    return shape if request.picture else AV(None, shape.audio)


def encode_conditions(bundle: Bundle, request: Request) -> tuple[Conditioning, Conditioning]:
    """What the passes with and without the prompt get. The voice is in both: guidance is for the words."""
    prompt = build_prompt(bundle.config.markup, request.scene, request.say, request.sound)
    texts = list(dict.fromkeys((prompt, request.negative_scene, request.negative_sound)))
    context = dict(zip(texts, bundle.text_encoder.encode(texts).to(bundle.device).split(1), strict=True))
    reference = encode_voices(bundle, request)
    negative = AV(context[request.negative_scene], context[request.negative_sound])
    return tuple(
        Conditioning(text, AV(reference, reference))
        for text in (AV(context[prompt], context[prompt]), negative)
    )


def encode_voices(bundle: Bundle, request: Request) -> Tensor | Voices | None:
    """The voice that is heard throughout, or all with their times; None if there is none."""
    voice = voice_of(bundle.config, request)
    rest = [] if voice is None else [encode_voice(bundle, voice)]
    if not request.voices:
        return rest[0] if rest else None
    latents = [*rest, *(encode_voice(bundle, one.waveform) for one in request.voices)]
    spans = [*(None for _ in rest), *(one.span for one in request.voices)]
    return Voices.at_seconds(latents, spans, bundle.config.format.video_rate)


def voice_of(config: ModelConfig, request: Request) -> Tensor | None:
    """(samples,) of the voice that was given, else of the clip to continue, if that is enough and not silent.

    Its first seconds are heard: they stay the same however often a clip goes on, so the voice cannot drift.
    """
    if request.voice is not None or request.continued is None or not config.reference_len:
        return request.voice
    waveform = request.continued.waveform.mean(0)
    start = waveform[: config.reference_len * config.format.audio_stride]
    enough = len(start) >= MIN_VOICE * config.format.sample_rate and start.abs().max() > SILENT
    return start if enough else None


def encode_voice(bundle: Bundle, voice: Tensor) -> Tensor:
    """(samples,) -> (1, n, c): the audio latents of a voice, time first, of the seconds the model hears."""
    codec = bundle.audio_codec
    taken = take_voice(voice[None], codec.sample_rate, codec.sample_rate, voice_seconds(bundle.config))
    if len(taken.waveform) < len(voice):
        log.info("the model hears %s of the voice", taken.text)
    whole = len(taken.waveform) // codec.stride * codec.stride
    return codec.encode(taken.waveform[None, :whole].to(bundle.device)).transpose(1, 2)


def kept_parts(bundle: Bundle, request: Request, noise: Latents) -> tuple[Latents | None, Latents | None]:
    """(clean latents, denoise_mask) of the parts that are given: 1 = generate, 0 = keep. None = make all."""
    given = given_parts(bundle, request, noise)
    if not any(given.present()):
        return None, None
    pairs = noise.map(kept, given)
    return pairs.map(lambda pair: pair[0]), pairs.map(lambda pair: pair[1])


def given_parts(bundle: Bundle, request: Request, noise: Latents) -> AV[list[Part]]:
    """The latents of each stream that are given, and the step at which they begin."""
    picture, sound, form = request.keep_video, request.keep_audio, bundle.config.format
    latents = None if noise.audio is None else noise.audio.shape[-1]
    if request.image is not None:
        picture = request.image[None]
    if request.continued is not None:
        seen = seen_frames(form, request.continued, request.overlap)
        picture, sound = end_of(request.continued, seen, form)
        latents = len(sound) // form.audio_stride
    pictures = [] if picture is None else [(encode_picture(bundle, request, picture), 0)]
    if request.last_image is not None:
        still = encode_picture(bundle, request, still_frames(request.last_image, form.frame_stride))
        pictures.append((still[:, :, -1:], -1))
    return AV(pictures, [] if sound is None else [(encode_sound(bundle, sound, latents), 0)])


def kept(noise: Tensor, parts: list[Part]) -> tuple[Tensor | None, Tensor | None]:
    """(clean, mask (1, 1, f, 1, 1) or (1, 1, n)) of one stream; None if nothing of it is given."""
    if not parts:
        return None, None
    clean, mask = torch.zeros_like(noise), noise.new_ones(1, 1, noise.shape[2], *[1] * (noise.ndim - 3))
    for part, at in parts:
        clean, mask = keep(clean, mask, part, at)
    return clean, mask


def encode_picture(bundle: Bundle, request: Request, frames: Tensor) -> Tensor:
    """(f, h, w, 3) in 0..1 -> (1, c, f', h', w'), each frame scaled and cut to fill the clip."""
    filled = fill_frames(frames, request.width, request.height).permute(3, 0, 1, 2).contiguous()
    vae = bundle.video_vae
    return vae.encode((filled[None] * 2 - 1).to(next(vae.parameters()))).float()


def encode_sound(bundle: Bundle, waveform: Tensor, latents: int) -> Tensor:
    """(samples,) -> (1, c, latents), cut, or with silence behind it."""
    sound = pad(waveform, (0, latents * bundle.audio_codec.stride - len(waveform)))
    return bundle.audio_codec.encode(sound[None].to(bundle.device))


def made(latents: Latents, request: Request) -> Latents:
    """Without the streams that were given: they need no decoding."""
    video = latents.video if request.keep_video is None else None
    return AV(video, latents.audio if request.keep_audio is None else None)


def with_given(clip: ClipStream, form: ClipFormat, request: Request) -> ClipStream:
    """The clip with what was to be kept, untouched; silence behind a sound shorter than its picture."""
    outline = clip.outline
    if request.continued is not None:
        seen = seen_frames(form, request.continued, request.overlap)
        return joined_stream(request.continued, clip, form, seen)
    if request.keep_video is not None:
        return ClipStream.of(replace(outline, frames=request.keep_video))
    if request.keep_audio is not None:
        samples = int(len(outline.frames) * outline.sample_rate / outline.fps)
        silence = max(0, samples - len(request.keep_audio))
        waveform = pad(request.keep_audio, (0, silence))[None]
        return replace(clip, outline=replace(outline, waveform=waveform))
    return clip


def watched(on_step: OnStep | None, steps: int) -> OnStep:
    """`on_step`, after a look at what the step made."""

    def look(i: int, denoised: Latents) -> None:
        check_finite(denoised, f"in step {i + 1} of {steps}")
        if on_step is not None:
            on_step(i, denoised)

    return look


def check_finite(latents: Latents, when: str) -> Latents:
    """The latents; ValueError naming the stream that holds NaN or infinity."""
    for name in ("video", "audio"):
        one = getattr(latents, name)
        if one is not None and not torch.isfinite(one).all():
            raise ValueError(
                f"the {name} latent holds values that are not numbers {when}; the weights are damaged, "
                "or the precision is too low for them"
            )
    return latents


def decode(bundle: Bundle, latents: Latents, frames: int, trace: Trace | None = None) -> Clip:
    """Latents (1, c, f, h, w) and (1, c, n) -> the clip. Sound ends within one frame of the picture."""
    return decode_stream(bundle, latents, frames, trace).whole()


@torch.no_grad()
def decode_stream(bundle: Bundle, latents: Latents, frames: int, trace: Trace | None = None) -> ClipStream:
    """The same, whose sound is decoded here and whose picture is when it is asked for."""
    trace = trace or Trace()
    form, waveform, picture, parts = bundle.config.format, None, None, ()
    if latents.audio is not None:
        with trace.stage("audio"):
            sound = bundle.audio_codec.decode(latents.audio)[:, : form.samples(frames)]
            waveform = sound.float().cpu().clamp(-1, 1)
    if latents.video is not None:
        count, rows, columns = latents.video.shape[2:]
        size = (1 + form.frame_stride * (count - 1), form.pixel_stride * rows, form.pixel_stride * columns)
        picture = torch.empty(*size, 3, device="meta")
        parts = trace.each("video", decode_picture(bundle, latents.video))
    return ClipStream(Clip(picture, waveform, form.fps, form.sample_rate), parts)


@torch.no_grad()
def decode_picture(bundle: Bundle, latent: Tensor) -> Iterator[Tensor]:
    """(1, c, f, h, w) -> (1, h, w, 3), (4, h, w, 3), ... in 0..1"""
    vae = bundle.video_vae
    for pixels in vae.decode_chunks(latent.to(next(vae.parameters()))):
        yield pixels[0].permute(1, 2, 3, 0).float().cpu().add(1).div(2).clamp(0, 1)
