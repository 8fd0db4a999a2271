"""Make talking clips from words.

python -m unitalk_core sample --model tiny --say "good morning" --out clip.mp4
python -m unitalk_core sample --model tiny --prompts lines.jsonl --out folder
torchrun --nproc-per-node=8 -m unitalk_core sample --prompts lines.jsonl --out folder
torchrun --nproc-per-node=8 -m unitalk_core sample --say "good morning" --out clip.mp4
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict, fields, replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .bundle import add_bundle, load
from .guidance import add_guidance, guidance_from

if TYPE_CHECKING:
    from torch import Tensor

    from ..av import Clip, ClipStream
    from ..models.voices import Span
    from ..pipeline import Bundle, Request, Trace
    from ..processes import Processes

SPAN = re.compile(r"(.+)@(\d+\.?\d*)-(\d+\.?\d*)?")  # FILE@START-END
INHERITED = {"scene": str, "sound": str, "width": int, "height": int}  # by a clip that is continued
SEEN = {"scene", "image", "last_image", "keep_video", "continued"}  # what says or shows who is seen


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.argument_default = argparse.SUPPRESS  # an option that is not given keeps the pipeline's default
    add_bundle(parser)
    add_request(parser)
    files = parser.add_argument_group("files")
    files.add_argument("--out", metavar="FILE.mp4", help="the clip; with --prompts a folder for them")
    files.add_argument("--report", metavar="FILE.json", help="write what was made, and how long it took")
    files.add_argument(
        "--prompts",
        metavar="FILE.jsonl",
        help="one clip a line: an object of these options; what is there "
        "already is not made again, and several processes share the lines (torchrun, accelerate launch)",
    )


def add_request(parser: argparse.ArgumentParser) -> None:
    """What a clip is made from: on the command line, or in a line of --prompts."""
    what = parser.add_argument_group("what is said and seen")
    what.add_argument("--say", metavar="TEXT", help="the words to be spoken")
    what.add_argument("--scene", metavar="TEXT", help="what is seen (tiny: somebody by chance)")
    what.add_argument("--sound", metavar="TEXT", help="how it sounds")
    what.add_argument("--negative-scene", metavar="TEXT", help="what shall not be seen")
    what.add_argument("--negative-sound", metavar="TEXT", help="how it shall not sound")
    what.add_argument(
        "--voice",
        action="append",
        metavar="FILE[@START-END]",
        help="a few seconds of the voice that shall speak; with seconds, where several do (repeat it)",
    )
    what.add_argument("--image", metavar="FILE", help="the first frame, cropped to fill the clip")
    what.add_argument("--last-image", metavar="FILE", help="the picture at which the clip comes to rest")
    what.add_argument("--keep-video", metavar="FILE", help="a video that gets a sound; its picture stays")
    what.add_argument("--keep-audio", metavar="FILE", help="a sound that gets a picture; it stays as it is")
    what.add_argument(
        "--continue", dest="continued", metavar="FILE", help="a clip that goes on with these words"
    )
    what.add_argument("--no-video", dest="picture", action="store_false", help="sound alone, as a .wav file")
    form = parser.add_argument_group("form")
    form.add_argument("--seconds", type=float, help="length, or what is added (default: what the words take)")
    form.add_argument("--overlap", type=float, help="seconds of its end that --continue sees (0.6)")
    form.add_argument("--width", type=int, help="pixels, a multiple of 32 (64, what tiny was trained on)")
    form.add_argument("--height", type=int, help="the same")
    form.add_argument(
        "--subtitles",
        choices=("none", "track", "srt"),
        help="the words that are said, inside the mp4 or in a file beside it; with --continue the new ones",
    )
    how = parser.add_argument_group("sampling")
    how.add_argument("--seed", type=int, help="chance; the same seed makes the same clip (0)")
    how.add_argument("--audio-seed", type=int, help="another seed for the sound alone")
    how.add_argument("--steps", type=int, help="steps of the sampler (20)")
    how.add_argument("--sampler", help="unipc, dpmpp_2m, dpmpp_3m, euler or heun (unipc)")
    how.add_argument("--video-cfg", type=float, help="how strictly the picture follows the words (2)")
    how.add_argument("--audio-cfg", type=float, help="how strictly the sound does (2)")
    how.add_argument(
        "--passes",
        choices=("auto", "batched", "sequential"),
        help="of a step through the network, in one batch or one by one; the clip is the same (auto)",
    )
    add_guidance(parser)


def run(args: argparse.Namespace) -> int:
    """One clip, or one for each line of --prompts."""
    from ..media import check_target
    from ..processes import together
    from .lines import run_lines

    start = time.perf_counter()
    report = check_target(args.report, ".json") if "report" in args else None
    if "prompts" not in args and "out" not in args:
        raise ValueError("there is no --out; name the file that the clip shall be written to")
    with together() as processes:
        made = run_lines(args, processes) if "prompts" in args else make_one_clip(args, processes, start)
        if report is not None and processes.first:
            write_report(report, made)
    return 1 if made.get("failed") else 0


def make_one_clip(args: argparse.Namespace, processes: Processes, start: float) -> dict[str, Any]:
    """By all processes together; the first one speaks, and has the report."""
    from ..media import check_target

    processes.everywhere(lambda: check_target(args.out, suffix(args)))
    with nullcontext() if processes.first else redirect_stdout(StringIO()):
        bundle = processes.everywhere(lambda: load(args))
        if processes.size > 1:
            from ..parallel import share_tokens

            print(f"one clip, its tokens shared by {processes.size} processes")
            bundle.attach(partial(share_tokens, rank=processes.rank, size=processes.size))
        return make_clip(bundle, args, time.perf_counter() - start, processes)


def suffix(args: argparse.Namespace) -> str:
    """Of the file that is made."""
    return ".mp4" if getattr(args, "picture", True) else ".wav"


def make_clip(
    bundle: Bundle,
    args: argparse.Namespace,
    load_seconds: float = 0.0,
    processes: Processes | None = None,
) -> dict[str, Any]:
    """Make and write one clip, say so in one line, and return the report on it.

    Of several processes that sample it together, the first decodes and writes; the others' reports are empty.
    """
    from tqdm import tqdm

    from ..pipeline import Trace, decode_request, sample_latents
    from ..processes import Processes

    start, processes = time.perf_counter(), processes or Processes()
    out, request = processes.everywhere(lambda: prepared(bundle, args))
    trace = Trace({"load": load_seconds})
    shown = {"desc": out.name, "unit": "step", "delay": 0.2, "disable": not processes.first}
    with tqdm(total=request.steps, **shown) as bar:
        sample_latents(bundle, request, lambda *_: bar.update(), trace)
    if not processes.first:
        return {}
    made = decode_request(bundle, request, trace)
    clip = made.outline
    with trace.stage("write"):
        write(out, made, request, bundle, provenance_of(args, request))
        subtitle(out, clip, request, subtitles_of(args))
    total = load_seconds + time.perf_counter() - start
    report = describe(out, clip, request, bundle, trace) | {"total_seconds": round(total, 3)}
    print(summary(report))
    return report


def prepared(bundle: Bundle, args: argparse.Namespace) -> tuple[Path, Request]:
    """Where the clip goes and what it is made from; all that is wrong is said here."""
    from ..media import check_target
    from ..pipeline import check_request

    out = check_target(args.out, suffix(args))
    request = request_from(bundle, args)
    check_request(bundle.config, request)
    check_subtitles(args, out)
    known = args.model != "tiny" or args.lora or not request.picture or SEEN & vars(args).keys()
    return out, request if known else replace(request, scene=face_by_chance(request.seed))


def face_by_chance(seed: int) -> str:
    """A face in the words that the miniature knows; without any, it would mix all faces. Says which."""
    from ..data.faces import draw_look
    from ..models.captions import PEOPLE

    rng = random.Random(seed)
    scene = draw_look(rng, rng.choice(PEOPLE)).caption
    print(f"without --scene, somebody by chance: {scene}")
    return scene


def subtitles_of(args: argparse.Namespace) -> str:
    return getattr(args, "subtitles", "none")


def check_subtitles(args: argparse.Namespace, out: Path) -> None:
    """ValueError for subtitles of nothing, or inside a file that cannot have them, before it is made."""
    from ..subtitles import check_speech

    if subtitles_of(args) == "none":
        return
    check_speech(getattr(args, "say", ""))
    if subtitles_of(args) == "track" and out.suffix == ".wav":
        raise ValueError("a .wav file has no room for a track of subtitles; use --subtitles srt")


def subtitle(out: Path, clip: Clip, request: Request, kind: str) -> None:
    """What is said, under the picture; of a clip that goes on, what is new."""
    from ..subtitles import subtitler

    if kind != "none":
        before = 0.0 if request.continued is None else request.continued.seconds
        subtitler(kind, request.say, clip, since=before)(out)


def provenance_of(args: argparse.Namespace, request: Request) -> dict[str, str]:
    """Tags that say what made the clip."""
    from ..provenance import as_text, provenance_tags, words_hash

    seeds = {"video_seed": request.seeds.video, "audio_seed": request.seeds.audio}
    words = words_hash(request.scene, request.say, request.sound)
    models = [Path(one).name for one in (args.model, *args.lora)]
    return as_text(provenance_tags(models, seeds, [words]))


def write(out: Path, made: ClipStream, request: Request, bundle: Bundle, provenance: dict[str, str]) -> None:
    """As mp4 with tags, or as wav, which has no room for them, where there is no picture."""
    from tqdm import tqdm

    from ..media import write_stream, write_wav

    clip = made.outline
    if clip.frames is None:
        write_wav(out, clip.waveform, clip.sample_rate)
        return
    told = {"unitalk": json.dumps(asked_for(request))}
    with tqdm(total=len(clip.frames), desc=out.name, unit="frame", delay=0.2) as bar:
        write_stream(out, watched(made, bar.update), told | provenance, scale(request, bundle))


def watched(made: ClipStream, on_frames: Callable[[int], Any]) -> ClipStream:
    """The clip; `on_frames` is told how many frames each part has."""

    def tell(part: Tensor) -> Tensor:
        on_frames(len(part))
        return part

    return replace(made, parts=map(tell, made.parts))


def scale(request: Request, bundle: Bundle) -> int:
    """How many times larger the picture is written; one that was given has its own size."""
    return bundle.shown if request.keep_video is None and request.continued is None else 1


def request_from(bundle: Bundle, args: argparse.Namespace) -> Request:
    """The options that were given, as a request; files are read."""
    from ..media import read_audio, read_image
    from ..pipeline import Request

    rate = bundle.config.format.sample_rate
    given = {one.name: getattr(args, one.name) for one in fields(Request) if one.name in args}
    given |= guidance_from(args)
    if "voice" in given:
        given |= voices_from(given["voice"], bundle)
    for name in ("image", "last_image"):
        if name in given:
            given[name] = read_image(given[name])
    if "keep_video" in given:
        given["keep_video"] = whole_latents(args.keep_video, bundle)
    if "keep_audio" in given:
        given["keep_audio"] = read_audio(args.keep_audio, rate, mono=True)[0][0]
    if "continued" in given:
        given = as_before(args.continued, given) | {"continued": clip_at_rates(args.continued, bundle)}
    request = Request(**given)
    if request.continued is not None:
        tell_cut(args.continued, request)
    return request


def voices_from(texts: list[str], bundle: Bundle) -> dict[str, Any]:
    """FILE, or FILE@START-END with an end that may be left out -> `voice` and `voices` of a request."""
    from ..request import Voice

    found, ranged = [], []
    for path, when in map(as_voice, texts):
        waveform = heard_voice(path, bundle)
        if when is None:
            found.append(waveform)
        else:
            ranged.append(Voice(waveform, when))
    if len(found) > 1:
        raise ValueError(f"{len(found)} voices would speak at once; say when, such as --voice FILE@0-1.5")
    return {"voice": found[0] if found else None, "voices": tuple(ranged)}


def as_voice(text: str) -> tuple[str, Span | None]:
    """FILE or FILE@START-END -> (file, seconds or None); a file of that very name comes first."""
    timed = None if Path(text).is_file() else SPAN.fullmatch(text)
    if timed is None:
        return text, None
    return timed[1], (float(timed[2]), float(timed[3]) if timed[3] else None)


def heard_voice(path: str, bundle: Bundle) -> Tensor:
    """What the model hears of a recording; says which seconds these are."""
    from ..excerpt import take_voice, voice_seconds
    from ..media import read_audio

    form = bundle.config.format
    taken = take_voice(*read_audio(path), form.sample_rate, voice_seconds(bundle.config))
    print(f"{path}: the voice is {taken.text}")
    return taken.waveform


def clip_at_rates(path: str, bundle: Bundle) -> Clip:
    """A clip from a file at the model's rates, with two channels of sound at most."""
    from ..media import read_video, resample

    form = bundle.config.format
    clip = read_video(path, fps=form.fps)
    if clip.waveform is None:
        return clip
    sound = clip.waveform if len(clip.waveform) <= 2 else clip.waveform.mean(0, keepdim=True)
    waveform = resample(sound, clip.sample_rate, form.sample_rate)
    return replace(clip, waveform=waveform, sample_rate=form.sample_rate)


def as_before(path: str, given: dict[str, Any]) -> dict[str, Any]:
    """What is given and, for the rest, what a clip says that it was made from; prints what that is."""
    told = what_was_asked(path)
    found = {name: told[name] for name, kind in INHERITED.items() if isinstance(told.get(name), kind)}
    found = {name: value for name, value in found.items() if value and name not in given}
    if found:
        print(f"{path}: as before, " + ", ".join(f"{name} {value!r}" for name, value in found.items()))
    return found | given


def tell_cut(path: str, request: Request) -> None:
    """Say that a clip of another shape loses its edges."""
    rows, columns = request.continued.frames.shape[1:3]
    if rows * request.width != columns * request.height:
        shape = f"{request.width} x {request.height}"
        print(f"{path}: {columns} x {rows} is cut evenly to the shape of {shape} (--width, --height)")


def what_was_asked(path: str) -> dict[str, Any]:
    """The request that `write` left in a clip; nothing for a clip from elsewhere."""
    import av

    try:
        with av.open(path) as file:
            told = json.loads(file.metadata.get("unitalk", "{}"))
    except (av.FFmpegError, json.JSONDecodeError):
        return {}
    return told if isinstance(told, dict) else {}


def whole_latents(path: str, bundle: Bundle) -> Tensor:
    """The frames of a video at the model's rate; says how many at its end do not fill a latent."""
    from ..media import read_video

    form = bundle.config.format
    frames = read_video(path, fps=form.fps).frames
    left = (len(frames) - 1) % form.frame_stride
    if left:
        print(f"{path}: its last {left} frames are left out, because the model sees {form.frame_stride}n+1")
    return frames[: len(frames) - left]


def asked_for(request: Request) -> dict[str, Any]:
    """The request without its pictures and sounds, to be written down."""
    plain = {one.name: getattr(request, one.name) for one in fields(request)}
    plain |= {"guide": str(request.guidance), "cache": request.cache and asdict(request.cache)}
    heavy = ("voice", "image", "last_image", "keep_video", "keep_audio", "continued")
    spans = [one.span for one in request.voices]
    told = {"audio_seed": request.seeds.audio, "voices": spans}
    return plain | told | {name: plain[name] is not None for name in heavy}


def describe(out: Path, clip: Clip, request: Request, bundle: Bundle, trace: Trace) -> dict[str, Any]:
    """All about a clip that was made, for --report."""
    from ..peak import peak_memory

    picture = (0, 0, 0) if clip.frames is None else clip.frames.shape[:3]
    shown = scale(request, bundle)
    return {
        "path": str(out),
        "bytes": out.stat().st_size,
        "width": picture[2] * shown,
        "height": picture[1] * shown,
        "frames": picture[0],
        "fps": float(clip.fps),
        "seconds": round(clip.seconds, 4),
        "sample_rate": clip.sample_rate,
        "samples": clip.waveform.shape[-1],
        "request": asked_for(request),
        "latents_sha256": digest(trace),
        "passes": trace.passes,
        "skipped_steps": 0 if trace.reuse is None else trace.reuse.skipped,
        "stage_seconds": {name: round(seconds, 3) for name, seconds in trace.seconds.items()},
        "peak_memory_mb": peak_memory(bundle.device),
    }


def digest(trace: Trace) -> str:
    """Of the bytes of the latents, picture first: equal for equal seeds on one machine."""
    import hashlib

    found = hashlib.sha256()
    for one in trace.latents.present():
        found.update(one.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def summary(report: dict[str, Any]) -> str:
    stages = ", ".join(f"{name} {seconds:.2f}" for name, seconds in report["stage_seconds"].items())
    size = f"{report['width']} x {report['height']}" if report["frames"] else "sound alone"
    return (
        f"{report['path']}: {size}, {report['seconds']:.2f} s, "
        f"{report['bytes'] / 1000:.0f} kB; made in {report['total_seconds']:.2f} s ({stages}), "
        f"{report['passes']} passes, {report['skipped_steps']} steps skipped"
    )


def write_report(path: Path, report: dict[str, Any]) -> None:
    from ..media import replacing

    with replacing(path) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
