"""What is to be made, and whether it can be: all that is wrong with a request is said before work starts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .av import AV, Clip, ClipFormat
from .config import ModelConfig
from .diffusion.cache import StepCache
from .diffusion.guidance import UNGUIDED, Guidance, Term, Without
from .diffusion.passes import MODES
from .diffusion.samplers import SAMPLERS
from .excerpt import MIN_VOICE
from .models.markup import build_prompt, check_untagged, without_weights
from .models.phonemes import BOUNDARY, PAUSES, speech_tokens
from .models.voices import Span, check_spans
from .seam import added_frames, check_old, room, seen_frames

MAX_SIDE = 2048  # pixels
MAX_STEPS = 1000  # of the training grid
DEFAULT_SECONDS = 2.4  # of a clip in which nobody speaks
BY_TASK = AV(1.0, 2.0)  # strength of what guides by itself: the sound alone (measured: docs/log.md)
LEAD_SECONDS, PHONE_SECONDS, GAP_SECONDS, PAUSE_SECONDS = 0.6, 0.087, 0.16, 0.25  # of synthetic speech


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
        `overlap` seconds and hears the voice of its start, unless another is given; `seconds` is what is
        added, a short pause included where the clip ends quietly.
    picture: False makes sound alone.
    cfg_range: where the text guides, in fractions of the way from noise to data; `guide`: what else does, and
        how. A voice that is given, and the picture for which a sound is made, guide the sound by themselves
        (`BY_TASK`); a term of `guide` for the same takes their place, one with a scale of 1 turns them off.
    cache: skips steps that would change little. passes: through the network in a step, batched or one by one
        ("sequential"), which changes nothing but time and memory; "auto" chooses by the device.
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
    passes: str = "auto"
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
        """By the text, by what else was asked for, and by what the task asks for."""
        text = Term(Without(text=True), AV(self.video_cfg, self.audio_cfg), *self.cfg_range)
        return replace(self.guide, terms=(text, *self.guide.terms, *self._by_task()))

    def _by_task(self) -> tuple[Term, ...]:
        asked = {term.without for term in self.guide.terms}
        helps = {
            Without(voice=True): self.voice is not None or bool(self.voices),
            Without(coupling=True): self.keep_video is not None and self.couple[1],
        }
        return tuple(Term(one, BY_TASK) for one, here in helps.items() if here and one not in asked)

    @property
    def seeds(self) -> AV[int]:
        return AV(self.seed, self.seed if self.audio_seed is None else self.audio_seed)


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
    if request.passes not in MODES:
        raise ValueError(f"passes must be one of {', '.join(MODES)}, got {request.passes}")
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
