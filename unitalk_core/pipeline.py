"""The reference path from words to a clip: `generate(bundle, request)`. The rest are its steps.

b batch · c channels · f latent frames · h, w latent rows, columns · n audio latents or samples
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from .av import AV, Clip, ClipFormat, draw_noise
from .config import ModelConfig
from .diffusion.cache import Reuse, StepCache
from .diffusion.denoiser import Conditioning, Denoiser
from .diffusion.guidance import UNGUIDED, Guidance, Term, Without
from .diffusion.samplers import SAMPLERS, WHOLE_TIMESTEPS
from .diffusion.schedules import SCHEDULES, sigma_at
from .excerpt import MIN_VOICE, take_voice, voice_seconds
from .kept import keep, still_frames
from .media import fill_frames
from .models.markup import build_prompt, check_untagged, without_weights
from .models.phonemes import BOUNDARY, PAUSES, speech_tokens
from .models.voices import Span, Voices, check_spans
from .seam import added_frames, check_old, end_of, joined, room, seen_frames
from .weights.loading import EMBEDDED, EMBEDDED_FILES, describe, load_embedded
from .weights.lora import apply_lora, read_lora, read_strengths

log = logging.getLogger("unitalk")

Latents = AV[Tensor | None]
Part = tuple[Tensor, int]  # latents that are given, and where they begin in time
OnStep = Callable[[int, Latents], None]

MAX_SIDE = 2048  # pixels
MAX_STEPS = 1000  # of the training grid
DEFAULT_SECONDS = 2.4  # of a clip in which nobody speaks
LEAD_SECONDS, PHONE_SECONDS, GAP_SECONDS, PAUSE_SECONDS = 0.6, 0.087, 0.16, 0.25  # of synthetic speech
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

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device


@dataclass(frozen=True)
class Voice:
    """A voice of its own time. waveform: (samples,) at the model's sample rate; span: seconds of the clip."""

    waveform: Tensor
    span: Span


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be made. Sizes in pixels; `audio_seed` None = `seed`; `shift` None = the model's own.

    negative_scene, negative_sound: what guidance leads each stream away from; "" is the null text.
    voice: (samples,) at the model's sample rate, of who shall speak. Of a long one the model hears
        the longest voiced stretch.
    voices: further ones, each heard in its own seconds alone, and `voice` in the rest.
    image: (h, w, 3) in 0..1, the first frame; it is scaled and cropped to fill the clip.
    last_image: the same for the end, where the clip comes to rest for the frames of one latent.
    keep_video: (f, h, w, 3) in 0..1 at the model's rate, a picture that gets a sound and comes back as it is.
    keep_audio: (samples,) at the model's sample rate, a sound that gets a picture and comes back as it is.
    continued: a clip of any size at the model's rates that goes on with these words. The model sees its last
        `overlap` seconds and hears its voice, unless another is given; `seconds` is what is added.
    picture: False makes sound alone.
    cfg_range: where the text guides, in fractions of the way from noise to data; `guide`: what else does, and
        how. cache: skips steps that would change little.
    """

    say: str = ""
    scene: str = ""
    sound: str = ""
    negative_scene: str = ""
    negative_sound: str = ""
    seconds: float | None = None  # None: as long as the words take
    width: int = 64
    height: int = 64
    seed: int = 0
    audio_seed: int | None = None
    steps: int = 20
    sampler: str = "unipc"
    video_cfg: float = 2.0
    audio_cfg: float = 2.0
    cfg_range: tuple[float, float] = (0.0, 1.0)
    guide: Guidance = UNGUIDED
    cache: StepCache | None = None
    shift: float | None = None
    couple: tuple[bool, bool] = (True, True)
    voice: Tensor | None = None
    voices: tuple[Voice, ...] = ()
    image: Tensor | None = None
    last_image: Tensor | None = None
    keep_video: Tensor | None = None
    keep_audio: Tensor | None = None
    continued: Clip | None = None
    overlap: float = 0.6
    picture: bool = True

    @property
    def guidance(self) -> Guidance:
        """By the text, and what else was asked for."""
        text = Term(Without(text=True), AV(self.video_cfg, self.audio_cfg), *self.cfg_range)
        return replace(self.guide, terms=(text, *self.guide.terms))

    @property
    def seeds(self) -> AV[int]:
        return AV(self.seed, self.seed if self.audio_seed is None else self.audio_seed)


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
            self.passes += 1
            return model(*args, **kwargs)

        return count

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def load_bundle(name: str = TINY) -> Bundle:
    """Everything that makes clips: "tiny", the miniature of the pack, or a folder with files like its own.

    The environment variable UNITALK_EMBEDDED names another folder for "tiny". Raises FileNotFoundError for
    missing files, ValueError for damaged or foreign ones.
    """
    folder = os.environ.get(EMBEDDED_VARIABLE, EMBEDDED) if name == TINY else Path(name)
    if Path(folder).is_file():
        holds = ", ".join(describe(folder)["holds"]) or "nothing this project knows"
        raise ValueError(
            f"{folder} holds {holds}; a clip needs tiny, or a folder with {', '.join(EMBEDDED_FILES)}"
        )
    if not Path(folder).is_dir():
        raise FileNotFoundError(
            f"there is no model {folder}; use tiny, or a folder with {', '.join(EMBEDDED_FILES)}"
        )
    return Bundle(*load_embedded(folder), shown=TINY_SHOWN)


def add_lora_file(bundle: Bundle, path: str | Path, strengths: str = "") -> None:
    """Add a LoRA to the bundle's model for good. FileNotFoundError, or ValueError if it does not fit.

    strengths: as `read_strengths` takes them, such as `0.8` or `0.8,sound:0`.
    """
    apply_lora(bundle.model, read_lora(path), read_strengths(strengths), path)


@torch.no_grad()
def generate(
    bundle: Bundle, request: Request, on_step: OnStep | None = None, trace: Trace | None = None
) -> Clip:
    """Make the clip. ValueError of one sentence before work starts, or when a latent is no longer finite.

    on_step(i, denoised) is called after each step; what it raises ends the run. `trace` is filled in.
    """
    trace = trace or Trace()
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
            model=trace.counting(bundle.model),
            cond=cond,
            uncond=uncond,
            guidance=request.guidance,
            clean=clean,
            denoise_mask=mask,
            couple=request.couple,
            integer_timesteps=request.sampler in WHOLE_TIMESTEPS,
            shift=shift,
            reuse=trace.reuse,
        )
        sigmas = SCHEDULES[request.sampler](request.steps, shift)
        latents = SAMPLERS[request.sampler](denoiser, noise, sigmas, watched(on_step, request.steps))
        trace.latents = check_finite(denoiser.keep(latents), "at the end of sampling")
    clip = decode(bundle, made(trace.latents, request), frames, trace)
    return with_given(clip, bundle.config.format, request)


def check_request(config: ModelConfig, request: Request) -> int:
    """The number of frames that the model makes or sees; ValueError if anything asked for cannot be."""
    build_prompt(config.markup, request.scene, request.say, request.sound)
    for name in ("negative_scene", "negative_sound"):
        check_untagged(name, getattr(request, name))
    clip = config.format
    width, height = clip.check_size(request.width, request.height)
    if max(width, height) > MAX_SIDE:
        raise ValueError(f"width and height must be at most {MAX_SIDE}, got {width} x {height}")
    if not 1 <= request.steps <= MAX_STEPS:
        raise ValueError(f"steps must be from 1 to {MAX_STEPS}, got {request.steps}")
    if request.sampler not in SAMPLERS:
        raise ValueError(f"the sampler must be one of {', '.join(SAMPLERS)}, got {request.sampler}")
    for name in ("video_cfg", "audio_cfg"):
        if not 0 <= getattr(request, name) <= 100:
            raise ValueError(f"{name} must be from 0 to 100, got {getattr(request, name):g}")
    for seed in (request.seeds.video, request.seeds.audio):
        if not 0 <= seed < 2**63:
            raise ValueError(f"a seed must be from 0 to 2^63 - 1, got {seed}")
    if request.shift is not None and not 0 < request.shift < math.inf:
        raise ValueError(f"shift must be above 0, got {request.shift:g}")
    check_guidance(config, request)
    check_inputs(config, request)
    check_kept(config, request)
    if request.continued is not None:
        check_old(clip, request.continued, request.overlap)
    frames = frames_of(clip, request)
    check_spans([one.span for one in request.voices], float(frames / clip.fps))
    if request.last_image is not None and frames == 1:
        raise ValueError("a clip of one frame has no end to rest at; leave out last_image")
    return frames


def check_guidance(config: ModelConfig, request: Request) -> None:
    """ValueError if something shall guide that this clip or this model does not have."""
    depth = config.streams.present()[0].depth
    alone = not request.picture or len(config.streams.present()) == 1
    kept = (request.image, request.last_image, request.keep_video, request.continued)
    made = request.keep_video is None, request.keep_audio is None  # what is kept does not see what is made
    given = {
        "voice": bool(all_voices(request)) or request.continued is not None,
        "image": any(one is not None for one in kept),
        "coupling": not alone and any(sees and own for sees, own in zip(request.couple, made, strict=True)),
    }
    needs = {"voice": "a voice", "image": "a picture that is kept", "coupling": "a picture and a sound"}
    for without in (term.without for term in request.guidance.terms if term.counts):
        for name in (one for one in given if getattr(without, one) and not given[one]):
            raise ValueError(f"guidance by the {name} needs {needs[name]}; give one, or leave it out")
        if not all(0 <= block < depth for block in without.blocks):
            raise ValueError(f"the blocks of this model are 0 to {depth - 1}, got {without.blocks}")


def frames_of(clip: ClipFormat, request: Request) -> int:
    """How many frames the clip has; what is kept sets it, else `seconds`, else the words."""
    if request.keep_video is not None:
        return clip.check_frames(len(request.keep_video))
    if request.keep_audio is not None:
        frames = float(request.keep_audio.shape[-1] * clip.fps / clip.sample_rate)
        return clip.check_frames(1 + clip.frame_stride * math.ceil((frames - 1) / clip.frame_stride))
    if request.continued is not None:
        seen = seen_frames(clip, request.continued, request.overlap)
        return seen + added_frames(clip, seen, seconds_of(request, room(clip, seen)))
    return clip.frames_for(seconds_of(request, float(clip.max_frames / clip.fps)))


def seconds_of(request: Request, longest: float) -> float:
    """What was asked for, else how long the words take; ValueError if that is over `longest`."""
    return seconds_for(request.say, longest) if request.seconds is None else request.seconds


def check_inputs(config: ModelConfig, request: Request) -> None:
    """ValueError if a voice or an image was given that this model cannot use."""
    for voice in all_voices(request):
        if not config.reference_len:
            raise ValueError("this model does not take a voice; leave it out")
        seconds = voice.shape[-1] / config.format.sample_rate
        if voice.ndim != 1 or seconds < MIN_VOICE or not torch.isfinite(voice).all():
            raise ValueError(
                f"a voice needs at least {MIN_VOICE:g} s of sound in one channel, got {seconds:.2f} s"
            )
    if request.voices and request.continued is not None:
        raise ValueError(
            "a clip that is continued goes on with one voice; leave out the seconds of the others"
        )
    for image in (request.image, request.last_image):
        if image is None:
            continue
        if config.streams.video is None:
            raise ValueError("this model makes sound only and does not take an image; leave it out")
        if image.ndim != 3 or image.shape[-1] != 3:
            raise ValueError(f"an image must be (height, width, 3), got {tuple(image.shape)}")


def all_voices(request: Request) -> list[Tensor]:
    return [*([] if request.voice is None else [request.voice]), *(one.waveform for one in request.voices)]


def check_kept(config: ModelConfig, request: Request) -> None:
    """ValueError if a picture or sound that is to be kept cannot be, or contradicts what else was asked."""
    asked = ("keep_video", "keep_audio", "seconds")
    if len(twice := [name for name in asked if getattr(request, name) is not None]) > 1:
        raise ValueError(f"{' and '.join(twice)} each set the length of the clip; give one of them")
    alone = not request.picture or len(config.streams.present()) == 1
    for name in ("keep_video", "keep_audio", "image", "last_image", "continued"):
        if alone and getattr(request, name) is not None:
            raise ValueError(f"{name} needs a model and a clip with picture and sound; leave it out")
    if request.keep_video is not None:
        if request.image is not None or request.last_image is not None:
            raise ValueError("keep_video is the whole picture already; leave out the image")
        if request.keep_video.ndim != 4 or request.keep_video.shape[-1] != 3:
            shape = tuple(request.keep_video.shape)
            raise ValueError(f"keep_video must be (frames, height, width, 3), got {shape}")
    if request.keep_audio is not None:
        sound = request.keep_audio
        if sound.ndim != 1 or not len(sound) or not torch.isfinite(sound).all():
            raise ValueError(f"keep_audio must be (samples,) of numbers, got {tuple(sound.shape)}")
    if request.continued is not None:
        for name in ("image", "last_image", "keep_video", "keep_audio"):
            if getattr(request, name) is not None:
                raise ValueError(f"a clip that is continued has its own picture and sound; leave out {name}")


def seconds_for(say: str, longest: float) -> float:
    """How long a clip needs to be for these words, by their phones; ValueError if that is over `longest`."""
    if not say.strip():
        return min(DEFAULT_SECONDS, longest)
    tokens = speech_tokens(without_weights(say))
    pauses = sum(token in PAUSES for token in tokens)
    gaps = sum(token == BOUNDARY for token in tokens)
    phones = len(tokens) - pauses - gaps
    seconds = LEAD_SECONDS + phones * PHONE_SECONDS + gaps * GAP_SECONDS + pauses * PAUSE_SECONDS
    if seconds > longest:
        raise ValueError(
            f"these words take about {seconds:.1f} s and at most {longest:.2f} s can be made at once; "
            "say less at a time, or give seconds to have it spoken faster"
        )
    return seconds


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
    """(samples,) of the voice that was given, else of the end of the clip to continue, if that is enough."""
    if request.voice is not None or request.continued is None or not config.reference_len:
        return request.voice
    heard = config.reference_len * config.format.audio_stride
    end = request.continued.waveform.mean(0)[-heard:]
    return end if len(end) >= MIN_VOICE * config.format.sample_rate else None


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
        picture, sound = end_of(request.continued, seen)
        latents = form.audio_latents(seen)
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
    return bundle.video_vae.encode((filled[None] * 2 - 1).to(bundle.device))


def encode_sound(bundle: Bundle, waveform: Tensor, latents: int) -> Tensor:
    """(samples,) -> (1, c, latents), cut, or with silence behind it."""
    samples = latents * bundle.audio_codec.stride
    sound = pad(waveform[:samples], (0, max(0, samples - len(waveform))))
    return bundle.audio_codec.encode(sound[None].to(bundle.device))


def made(latents: Latents, request: Request) -> Latents:
    """Without the streams that were given: they need no decoding."""
    video = latents.video if request.keep_video is None else None
    return AV(video, latents.audio if request.keep_audio is None else None)


def with_given(clip: Clip, form: ClipFormat, request: Request) -> Clip:
    """The clip with what was to be kept, untouched; silence behind a sound shorter than its picture."""
    if request.continued is not None:
        seen = seen_frames(form, request.continued, request.overlap)
        return joined(request.continued, clip, form, seen)
    if request.keep_video is not None:
        return replace(clip, frames=request.keep_video)
    if request.keep_audio is not None:
        samples = int(len(clip.frames) * clip.sample_rate / clip.fps)
        silence = max(0, samples - len(request.keep_audio))
        return replace(clip, waveform=pad(request.keep_audio, (0, silence))[None])
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


@torch.no_grad()
def decode(bundle: Bundle, latents: Latents, frames: int, trace: Trace | None = None) -> Clip:
    """Latents (1, c, f, h, w) and (1, c, n) -> the clip. Sound ends within one frame of the picture."""
    trace = trace or Trace()
    clip, picture, waveform = bundle.config.format, None, None
    if latents.video is not None:
        with trace.stage("video"):
            pixels = bundle.video_vae.decode(latents.video)
            picture = pixels[0].permute(1, 2, 3, 0).float().cpu().add(1).div(2).clamp(0, 1)
    if latents.audio is not None:
        with trace.stage("audio"):
            sound = bundle.audio_codec.decode(latents.audio)[:, : clip.samples(frames)]
            waveform = sound.float().cpu().clamp(-1, 1)
    return Clip(picture, waveform, clip.fps, clip.sample_rate)
