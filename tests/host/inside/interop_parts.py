"""Rows of the interoperability table: models in files and merged, latents, codecs, texts, what is saved."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import comfy.utils
import folder_paths
import torch
from interop import EXACT, NOTE, REFUSED, Answer, all_hold, different, in_words, row, same, sampled, stops
from rig import HERE, NODES, core, empty, error_of, pair, run, stock, worst

MODELS, LATENTS, CODECS = "Models, files and LoRA", "Latents of picture and sound", "Codecs"
TEXTS, SAVED = "Texts", "Pictures, sound and files"


# --- models ----------------------------------------------------------------------------------------------


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: one.clone() for name, one in model.model.diffusion_model.state_dict().items()}


def another_model() -> Any:
    """The miniature with every weight moved a little."""
    moved = core("nodes.loading").embedded_patcher()
    for i, weight in enumerate(moved.model.diffusion_model.parameters()):
        weight.add_(
            0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(i)) * weight.std()
        )
    return moved


def lora() -> dict[str, torch.Tensor]:
    """A LoRA of both streams and of a modulation table, in the names that the trainers write."""
    generator = torch.Generator().manual_seed(0)
    made = {
        f"diffusion_model.{stream}_model.blocks.0.self_attn.q.{name}.weight": torch.randn(
            *size, generator=generator
        )
        for stream in ("video", "audio")
        for name, size in (("lora_up", (192, 4)), ("lora_down", (4, 192)))
    }
    return made | {"diffusion_model.video_model.blocks.1.modulation.diff": torch.full((1, 6, 192), 0.3)}


def with_lora(strength: float) -> Any:
    folder = Path(tempfile.mkdtemp())
    folder_paths.add_model_folder_path("loras", str(folder))
    comfy.utils.save_torch_file(lora(), str(folder / "interop.safetensors"))
    return stock("LoraLoaderModelOnly", HERE.model, "interop.safetensors", strength)


@row(MODELS, "LoraLoaderModelOnly")
def lora_loader() -> Answer:
    """at 0.7 it gives what UniTalk LoRA Loader gives, modulation tables included; at 0 nothing changes"""
    theirs, none, plain = sampled(with_lora(0.7)), sampled(with_lora(0.0)), sampled()
    ours, _ = run("UniTalkLoraLoader", HERE.model, "interop.safetensors", *[0.7] * 5)
    return all_hold(same(theirs, sampled(ours)), same(none, plain), different(theirs, plain))


def saved_and_loaded(model: Any) -> Any:
    folder = Path(folder_paths.get_output_directory(), "interop")
    stock("ModelSave", model, "interop/model")
    folder_paths.add_model_folder_path("diffusion_models", str(folder))
    (file,) = folder.glob("model_*.safetensors")
    try:
        return run("UniTalkLoadModel", file.name, "none", "default")[0]
    finally:
        HERE.unet_says = error_of(lambda: stock("UNETLoader", file.name, "default"))
        file.unlink()


@row(MODELS, "ModelSave", NOTE, "load the file with UniTalk Load Model; the text encoder is not in it")
def model_save() -> Answer:
    """UniTalk Load Model reads the file: the same weights bit for bit, configuration and clip"""
    loaded = saved_and_loaded(HERE.model)
    ours, theirs = weights(HERE.model), weights(loaded)
    equal = ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    known = loaded.model.unitalk == HERE.model.model.unitalk
    return all_hold((equal and known, f"{len(ours)} weights"), same(sampled(loaded), sampled()))


@row(MODELS, "ModelSave of a model with a LoRA")
def model_save_lora() -> Answer:
    """the LoRA is in the weights of the file: it makes the same clip"""
    return same(sampled(saved_and_loaded(with_lora(0.7))), sampled(with_lora(0.7)))


@row(
    MODELS,
    "UNETLoader, CheckpointLoaderSimple",
    REFUSED,
    "ComfyUI knows a closed list of models; use UniTalk Load Model",
)
def unet_loader() -> Answer:
    """says that it does not know the model"""
    saved_and_loaded(HERE.model)
    said = HERE.unet_says.splitlines()[0].split(" of: ")[0]
    return "Could not detect model type" in said, f"`{said}`"


@row(MODELS, "ModelMergeSimple")
def merge() -> Answer:
    """ratio 1 gives the first model, 0 the second, 0.5 the mean of their weights"""
    other, middle = another_model(), core("nodes.loading").embedded_patcher()
    ours, theirs = weights(middle), weights(other)
    middle.model.diffusion_model.load_state_dict({name: (ours[name] + theirs[name]) / 2 for name in ours})
    first, second, mean = (stock("ModelMergeSimple", HERE.model, other, ratio) for ratio in (1.0, 0.0, 0.5))
    ends = all_hold(same(sampled(first), sampled()), same(sampled(second), sampled(other)))
    return all_hold(ends, same(sampled(mean), sampled(middle)), different(sampled(mean), sampled()))


@row(MODELS, "ModelMergeSubtract, ModelMergeAdd")
def merge_difference() -> Answer:
    """the second model less the first, added to the first, is the second"""
    other = another_model()
    difference = stock("ModelMergeSubtract", other, HERE.model, 1.0)
    found = worst(pair(sampled(stock("ModelMergeAdd", HERE.model, difference)))[0], pair(sampled(other))[0])
    return found < 1e-3, f"the picture differs by {found:.2g}"


# --- latents ---------------------------------------------------------------------------------------------


@row(LATENTS, "LTXVSeparateAVLatent, LTXVConcatAVLatent")
def apart_and_together() -> Answer:
    """there and back is bit-equal, masks included"""
    clip = run("UniTalkKeepAudio", sampled())
    again = stock("LTXVConcatAVLatent", *stock("LTXVSeparateAVLatent", clip))
    masks = zip(clip["noise_mask"].unbind(), again["noise_mask"].unbind(), strict=True)
    found = far_equal(clip, again) and all(torch.equal(*one) for one in masks)
    return found, "equal bit for bit" if found else "differs"


def far_equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(pair(one), pair(other), strict=True))


@row(LATENTS, "SetLatentNoiseMask")
def noise_mask() -> Answer:
    """a plain mask is the picture's: where it is 0 the picture stays bit for bit, the sound is made anew"""
    clip, mask = sampled(), torch.ones(1, 64, 64)
    mask[:, :32] = 0
    made = sampled(latent=stock("SetLatentNoiseMask", clip, mask), seed=9)
    (video, audio), (old, heard) = pair(made), pair(clip)
    kept = torch.equal(video[..., :2, :], old[..., :2, :])
    return kept and not torch.equal(video, old) and not torch.equal(audio, heard), "the upper half is kept"


@row(LATENTS, "LatentAdd, LatentSubtract")
def latent_sums() -> Answer:
    """both streams: the sum of two clips less the second is the first"""
    first, second = sampled(), sampled(seed=4)
    return same(stock("LatentSubtract", stock("LatentAdd", first, second), second), first)


@row(LATENTS, "LatentMultiply")
def latent_multiply() -> Answer:
    """both streams are multiplied"""
    clip = sampled()
    halves = pair(stock("LatentMultiply", clip, 0.5))
    return all(torch.equal(a, b * 0.5) for a, b in zip(halves, pair(clip), strict=True)), "equal bit for bit"


def refused_latent(name: str, instead: str, *given: Any, twice: bool = False) -> None:
    @row(LATENTS, name, REFUSED, f"use {instead}")
    def call() -> Answer:
        """stops in the host"""
        clips = [sampled(latent=empty(batch_size=2), steps=1)] * (2 if twice else 1)
        return stops(lambda: stock(name, *clips, *given))


SPLIT = "UniTalk Split Latent before it and UniTalk Join Latent behind"
refused_latent("LatentUpscale", "UniTalk Resize Latent", "bilinear", 128, 128, "disabled")
refused_latent("LatentUpscaleBy", "UniTalk Resize Latent", "bilinear", 2.0)
refused_latent("RepeatLatentBatch", "UniTalk Repeat Latent", 2)
refused_latent("LatentFromBatch", "UniTalk Latent From Batch", 0, 1)
refused_latent("LatentBatch", "batch_size of UniTalk Empty Latent, or UniTalk Repeat Latent", twice=True)
refused_latent("LatentInterpolate", SPLIT, 0.5, twice=True)
refused_latent("LatentConcat", "UniTalk Join Clips", "t", twice=True)
refused_latent("LatentCut", SPLIT, "t", 0, 2)
refused_latent("SaveLatent", "UniTalk Save Latent", "interop/latent")


@row(LATENTS, "RebatchLatents", REFUSED, "use UniTalk Latent From Batch")
def rebatch() -> Answer:
    """stops in the host"""
    return stops(lambda: stock("RebatchLatents", [sampled(latent=empty(batch_size=2), steps=1)], [1]))


@row(LATENTS, "LatentUpscale, LatentFromBatch, SaveLatent of one stream")
def one_stream() -> Answer:
    """between UniTalk Split Latent and UniTalk Join Latent they work; a saved picture loads bit for bit"""
    video, audio = run("UniTalkSplitLatent", sampled(latent=empty(batch_size=2), steps=1))
    larger = stock("LatentUpscaleBy", stock("LatentFromBatch", video, 0, 1), "bilinear", 2.0)
    joined = run("UniTalkJoinLatent", larger, run("UniTalkLatentFromBatch", audio, 0, 1))
    stock("SaveLatent", video, "interop/latent")
    (file,) = Path(folder_paths.get_output_directory(), "interop").glob("latent_*.latent")
    loaded = stock("LoadLatent", f"interop/{file.name} [output]")["samples"]
    file.unlink()
    shape = list(pair(joined)[0].shape)
    return shape == [1, 48, 5, 8, 8] and torch.equal(loaded, video["samples"]), f"a picture of {shape}"


@row(LATENTS, "LatentBatchSeedBehavior")
def seed_behaviour() -> Answer:
    """fixed: both clips of a batch are the same"""
    made = pair(sampled(latent=stock("LatentBatchSeedBehavior", empty(batch_size=2), "fixed"), steps=1))
    found = max(worst(one[:1], one[1:]) for one in made)
    return found < EXACT, in_words([found])


# --- codecs ----------------------------------------------------------------------------------------------


def decoded(clip: dict[str, Any] | None = None) -> tuple[torch.Tensor, dict[str, Any]]:
    clip = clip or sampled()
    return run("UniTalkWanVAEDecode", clip, HERE.vae), run("UniTalkBigVGANVocode", clip, HERE.audio_vae)


@row(CODECS, "VAEDecode")
def vae_decode() -> Answer:
    """takes the picture of a joint latent, as UniTalk Wan VAE Decode does"""
    clip = sampled()
    found = worst(stock("VAEDecode", HERE.vae, clip), decoded(clip)[0])
    return found == 0, in_words([found])


@row(
    CODECS,
    "VAEDecodeTiled",
    NOTE,
    "tiles are at least 64 pixels; UniTalk Wan VAE Decode tiles in space alone",
    since=(0, 32, 0),
)
def vae_decode_tiled() -> Answer:
    """a picture of one tile is the untiled one"""
    clip = sampled()
    found = worst(stock("VAEDecodeTiled", HERE.vae, clip, 512, 64, 64, 8), decoded(clip)[0])
    return found < EXACT, in_words([found])


@row(CODECS, "VAEEncode, VAEEncodeTiled")
def vae_encode() -> Answer:
    """17 frames become latents of the clip's shape, in tiles the same"""
    frames, _ = decoded()
    whole = stock("VAEEncode", HERE.vae, frames)["samples"]
    tiled = stock("VAEEncodeTiled", HERE.vae, frames, 512, 64, 64, 8)["samples"]
    return list(whole.shape) == [1, 48, 5, 4, 4] and worst(tiled, whole) < EXACT, in_words(
        [worst(tiled, whole)]
    )


@row(
    CODECS,
    "VAEDecodeAudio, VAEDecodeAudioTiled",
    NOTE,
    "a loud sound is made softer, by its spread; UniTalk BigVGAN Vocode leaves it alone",
)
def vae_decode_audio() -> Answer:
    """takes the sound of a joint latent; but for one factor it is that of UniTalk BigVGAN Vocode"""
    clip = sampled()
    ours = decoded(clip)[1]["waveform"]
    theirs = stock("VAEDecodeAudio", HERE.audio_vae, clip)["waveform"]
    tiled = stock("VAEDecodeAudioTiled", HERE.audio_vae, clip, 512, 64)["waveform"]
    factor = max(1.0, 5 * float(ours.std()))
    found = [worst(theirs * factor, ours), worst(tiled * factor, ours)]
    return max(found) < EXACT, in_words(found)


@row(CODECS, "LTXVAudioVAEDecode")
def ltxv_audio_decode() -> Answer:
    """gives what UniTalk BigVGAN Vocode gives, at its rate"""
    clip = sampled()
    made, ours = stock("LTXVAudioVAEDecode", clip, HERE.audio_vae), decoded(clip)[1]
    found = worst(made["waveform"], ours["waveform"])
    return found < EXACT and made["sample_rate"] == ours["sample_rate"], in_words([found])


@row(CODECS, "VAEEncodeAudio")
def vae_encode_audio() -> Answer:
    """a sound of another rate becomes latents of the clip's length"""
    waveform = 0.1 * torch.randn(1, 2, 21 * 512 * 3, generator=torch.Generator().manual_seed(0))
    made = stock("VAEEncodeAudio", HERE.audio_vae, {"waveform": waveform, "sample_rate": 48000})["samples"]
    return list(made.shape) == [1, 20, 21], f"{list(made.shape)}"


@row(CODECS, "LTXVEmptyLatentAudio", REFUSED, "use UniTalk Empty Latent")
def ltxv_empty_audio() -> Answer:
    """asks the audio VAE for what only LTX's has"""
    return stops(lambda: stock("LTXVEmptyLatentAudio", 17, 25.0, 1, HERE.audio_vae), "latent_frequency_bins")


# --- texts -----------------------------------------------------------------------------------------------


@row(TEXTS, "CLIPTextEncode")
def clip_text_encode() -> Answer:
    """on a finished prompt it gives what UniTalk Text Encode gives"""
    ours, prompt = run("UniTalkTextEncode", HERE.clip, "a woman", "hello melody", "", "auto")
    theirs = stock("CLIPTextEncode", HERE.clip, prompt)
    equal = torch.equal(ours[0][0], theirs[0][0])
    return equal, "equal bit for bit" if equal else "differs"


def said(speech: str) -> Any:
    return run("UniTalkTextEncode", HERE.clip, "a woman", speech, "", "auto")[0]


@row(TEXTS, "ConditioningZeroOut")
def zero_out() -> Answer:
    """all zeros, and the clip is another than with the text"""
    none = stock("ConditioningZeroOut", HERE.positive)
    zeros = not none[0][0].any()
    return all_hold((bool(zeros), "zeros"), different(sampled(positive=none), sampled(cfg=1.0)))


@row(TEXTS, "ConditioningCombine")
def combine() -> Answer:
    """a text combined with itself changes nothing; with another text it does"""
    plain = sampled()
    twice, two = (
        stock("ConditioningCombine", HERE.positive, one) for one in (HERE.positive, said("good morning"))
    )
    return all_hold(same(sampled(positive=twice), plain), different(sampled(positive=two), plain))


@row(TEXTS, "ConditioningAverage")
def average() -> Answer:
    """strength 1 is the first text, 0 the second"""
    one, other = HERE.positive, said("good morning")
    first, second = (stock("ConditioningAverage", one, other, strength) for strength in (1.0, 0.0))
    return all_hold(
        same(sampled(positive=first), sampled()), same(sampled(positive=second), sampled(positive=other))
    )


@row(TEXTS, "ConditioningConcat", REFUSED, "write both into one UniTalk Text Encode")
def concat() -> Answer:
    """two texts are longer than the model reads, since each is filled up: the sampler stops and says so"""
    both = stock("ConditioningConcat", HERE.positive, said("good morning"))
    return stops(lambda: sampled(positive=both), "this model takes at most")


@row(TEXTS, "ConditioningSetTimestepRange")
def timestep_range() -> Answer:
    """a text for the first half and again for the second is that text; another in the second half is not"""
    first = stock("ConditioningSetTimestepRange", HERE.positive, 0.0, 0.5)
    same_text, other = (
        stock("ConditioningCombine", first, stock("ConditioningSetTimestepRange", text, 0.5, 1.0))
        for text in (HERE.positive, said("good morning"))
    )
    plain = sampled(steps=4)
    found = same(sampled(positive=same_text, steps=4), plain)
    return all_hold(found, different(sampled(positive=other, steps=4), plain))


# --- what is saved ---------------------------------------------------------------------------------------


def in_output(call: Callable[[], Any], pattern: str) -> Path:
    """The file that a node has written."""
    folder = Path(folder_paths.get_output_directory(), "interop")
    before = set(folder.glob(pattern))
    call()
    (file,) = set(folder.glob(pattern)) - before
    return file


@row(SAVED, "ImageFromBatch")
def image_from_batch() -> Answer:
    """takes frames out of the decoded picture"""
    frames, _ = decoded()
    equal = torch.equal(stock("ImageFromBatch", frames, 3, 5), frames[3:8])
    return equal, "equal bit for bit" if equal else "differs"


@row(
    SAVED,
    "CreateVideo, GetVideoComponents",
    NOTE,
    "a difference in length is not named, as UniTalk Mux AV does",
)
def create_video() -> Answer:
    """what goes in comes out"""
    frames, sound = decoded()
    images, audio, fps = stock("GetVideoComponents", stock("CreateVideo", frames, 25.0, sound))[:3]
    equal = torch.equal(images, frames) and torch.equal(audio["waveform"], sound["waveform"]) and fps == 25
    return equal, "equal bit for bit" if equal else "differs"


def codec_of_this_host() -> Any:
    """The codec of SaveVideo is a word in some versions and a table in others."""
    kinds = {one.id: one for one in NODES["SaveVideo"].GET_SCHEMA().inputs}
    return "auto" if kinds["codec"].io_type == "COMBO" else {"codec": "auto"}


@row(SAVED, "SaveVideo")
def save_video() -> Answer:
    """an mp4 with all frames and the sound, of CreateVideo and of UniTalk Mux AV"""
    frames, sound = decoded()
    videos = stock("CreateVideo", frames, 25.0, sound), run("UniTalkMuxAV", frames, sound, 25.0, "error")[0]
    found = []
    for video in videos:
        file = in_output(
            lambda v=video: stock("SaveVideo", v, "interop/clip", "auto", codec_of_this_host()), "clip_*.mp4"
        )
        with av.open(str(file)) as opened:
            found.append((opened.streams.video[0].frames, len(opened.streams.audio)))
        file.unlink()
    return found == [(17, 1)] * 2, f"{found[0][0]} frames, {found[0][1]} sound"


@row(SAVED, "SaveAudio")
def save_audio() -> Answer:
    """a flac of as many samples at the model's rate"""
    _, sound = decoded()
    file = in_output(lambda: stock("SaveAudio", sound, "interop/sound"), "sound_*.flac")
    with av.open(str(file)) as opened:
        samples = sum(frame.samples for frame in opened.decode(audio=0))
        rate = opened.streams.audio[0].rate
    file.unlink()
    return (samples, rate) == (21 * 512, 16000), f"{samples} samples at {rate} Hz"
