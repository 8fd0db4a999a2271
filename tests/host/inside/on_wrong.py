"""Every wrong connection that a user can make with our nodes, and what is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.model_patcher
import comfy.nested_tensor
import comfy.sd
import comfy.supported_models
import torch
from comfy import sd1_clip
from interop import sampled
from interop_sampling import windows
from rig import HERE, empty, error_of, joint, measure, run, stock

NAN = float("nan")


def nested(*streams: torch.Tensor) -> dict[str, Any]:
    return {"samples": comfy.nested_tensor.NestedTensor(list(streams))}


def picture(*shape: int) -> torch.Tensor:
    return torch.zeros(shape or (1, 48, 5, 4, 4))


def sound(*shape: int) -> torch.Tensor:
    return torch.zeros(shape or (1, 20, 21))


def audio(seconds: float = 1.0, loud: float = 0.1, channels: int = 1) -> dict[str, Any]:
    noise = torch.randn(1, channels, int(16000 * seconds), generator=torch.Generator().manual_seed(0))
    return {"waveform": loud * noise, "sample_rate": 16000}


def clip_of_sd() -> Any:
    """The host's own CLIP of Stable Diffusion, in small."""
    sizes = json.loads(Path(sd1_clip.__file__).with_name("sd1_clip_config.json").read_text("utf8"))
    small = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1}
    target = SimpleNamespace(params={}, clip=sd1_clip.SD1ClipModel, tokenizer=sd1_clip.SD1Tokenizer)
    return comfy.sd.CLIP(
        target, model_options={"clip_l_model_config": sizes | small | {"projection_dim": 64}}
    )


def vae_of_sd() -> Any:
    """The host's own VAE of Stable Diffusion; that its weights are not there does not matter here."""
    return SimpleNamespace(latent_channels=4, first_stage_model=torch.nn.Identity())


def foreign_latents() -> dict[str, Any]:
    ltx = nested(picture(1, 128, 3, 2, 2), sound(1, 8, 20, 16))
    return {
        "LTX's latent": ltx,
        "a picture of other channels": nested(picture(1, 16, 5, 8, 8), sound()),
        "a sound of other channels": nested(picture(), sound(1, 40, 21)),
        "sound before picture": nested(sound(), picture()),
        "an odd width": nested(picture(1, 48, 5, 4, 5), sound()),
        "a picture of HunyuanVideo": {"samples": torch.ones(1, 16, 5, 8, 8)},
        "an image of Stable Diffusion": {"samples": torch.ones(1, 4, 8, 8)},
        "no frames": nested(picture(1, 48, 0, 4, 4), sound()),
        "NaN in the picture": nested(picture() * NAN, sound()),
        "NaN in the sound": nested(picture(), sound() * NAN),
    }


@measure
def wrong_latents() -> dict[str, dict[str, str]]:
    """Each at the stock KSampler, at the Joint Sampler, and at the decoders."""
    said: dict[str, dict[str, str]] = {}
    for name, latent in foreign_latents().items():
        said[name] = {
            "KSampler": error_of(lambda one=latent: sampled(latent=one)),
            "Joint Sampler": error_of(lambda one=latent: joint(latent=one)),
        }
    return said


@measure
def wrong_latents_at_decoders() -> dict[str, str]:
    found = foreign_latents()
    alone = {"picture": {"samples": picture()}, "sound": {"samples": sound()}}
    calls: dict[str, Callable[[], Any]] = {
        "a picture alone, vocoded": lambda: run("UniTalkBigVGANVocode", alone["picture"], HERE.audio_vae),
        "a sound alone, decoded": lambda: run("UniTalkWanVAEDecode", alone["sound"], HERE.vae),
        "LTX's latent, decoded": lambda: run("UniTalkWanVAEDecode", found["LTX's latent"], HERE.vae),
        "LTX's latent, vocoded": lambda: run("UniTalkBigVGANVocode", found["LTX's latent"], HERE.audio_vae),
        "a picture of other channels, decoded": lambda: run(
            "UniTalkWanVAEDecode", found["a picture of other channels"], HERE.vae
        ),
        "a sound of other channels, vocoded": lambda: run(
            "UniTalkBigVGANVocode", found["a sound of other channels"], HERE.audio_vae
        ),
        "NaN, vocoded": lambda: run("UniTalkBigVGANVocode", found["NaN in the sound"], HERE.audio_vae),
    }
    return {name: error_of(call) for name, call in calls.items()}


@measure
def wrong_vaes() -> dict[str, str]:
    clip, frames = joint(steps=1), torch.zeros(17, 64, 64, 3)
    calls: dict[str, Callable[[], Any]] = {
        "the audio VAE at the picture": lambda: run("UniTalkWanVAEDecode", clip, HERE.audio_vae),
        "the VAE of SD at the picture": lambda: run("UniTalkWanVAEDecode", clip, vae_of_sd()),
        "the video VAE at the vocoder": lambda: run("UniTalkBigVGANVocode", clip, HERE.vae),
        "the VAE of SD at a first image": lambda: run(
            "UniTalkImageToLatent", empty(), vae_of_sd(), frames[:1]
        ),
        "the video VAE for a voice": lambda: run(
            "UniTalkReferenceAudioEncode", HERE.positive, HERE.vae, audio()
        ),
        "the video VAE to hear with": lambda: run("UniTalkHearWhileSampling", HERE.model, HERE.vae),
        "the VAE of SD to hear with": lambda: run("UniTalkHearWhileSampling", HERE.model, vae_of_sd()),
        "the audio VAE at the stock decode": lambda: stock("VAEDecode", HERE.audio_vae, clip),
        "the video VAE at the stock audio decode": lambda: stock("VAEDecodeAudio", HERE.vae, clip),
        "the audio VAE at the stock tiles": lambda: stock(
            "VAEDecodeTiled", HERE.audio_vae, clip, 512, 64, 64, 8
        ),
        "the audio VAE at the stock encode": lambda: stock("VAEEncode", HERE.audio_vae, frames),
        "the video VAE at the stock audio encode": lambda: stock("VAEEncodeAudio", HERE.vae, audio()),
    }
    return {name: error_of(call) for name, call in calls.items()}


@measure
def wrong_texts() -> dict[str, str]:
    foreign = clip_of_sd()
    encoded = stock("CLIPTextEncode", foreign, "a woman")
    umt5 = [[torch.zeros(1, 512, 4096), {}]]
    other_voice = [[HERE.positive[0][0], {"reference": torch.zeros(1, 94, 40)}]]
    calls: dict[str, Callable[[], Any]] = {
        "the CLIP of SD": lambda: run("UniTalkTextEncode", foreign, "a woman", "hi", "", "auto"),
        "no CLIP": lambda: run("UniTalkTextEncode", None, "a woman", "hi", "", "auto"),
        "the CLIP of SD as negative": lambda: run("UniTalkNegativeEncode", foreign, "dark", ""),
        "text of SD at KSampler": lambda: sampled(positive=encoded),
        "text of umT5 at the miniature": lambda: joint(positive=umt5),
        "the voice of another audio VAE": lambda: joint(positive=other_voice),
    }
    return {name: error_of(call) for name, call in calls.items()}


def foreign_model() -> Any:
    """The host's own Stable Diffusion as MODEL, on no device."""
    config = comfy.supported_models.SD15({"in_channels": 4, "disable_unet_model_creation": True})
    model = config.get_model({}, device="meta")
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


@measure
def wrong_models() -> dict[str, str]:
    model, texts = foreign_model(), (HERE.positive, HERE.negative)
    scales = (2.0, 2.0, 0.0, 1.0)
    calls: dict[str, Callable[[], Any]] = {
        "UniTalkEmptyLatent": lambda: run("UniTalkEmptyLatent", model, 64, 64, 1.0, 0.0, 1),
        "UniTalkJointSampler": lambda: run(
            "UniTalkJointSampler", model, *texts, empty(), 1, 2, 3, "euler", 2.0, 2.0, 1.0
        ),
        "UniTalkVoiceGuidance": lambda: run("UniTalkVoiceGuidance", model, *scales),
        "UniTalkImageGuidance": lambda: run("UniTalkImageGuidance", model, *scales),
        "UniTalkCouplingGuidance": lambda: run("UniTalkCouplingGuidance", model, *scales),
        "UniTalkSkipLayerGuidance": lambda: run("UniTalkSkipLayerGuidance", model, "3", *scales),
        "UniTalkStepCache": lambda: run("UniTalkStepCache", model, 0.1, 0.1, 0.15, 0.95),
        "UniTalkHearWhileSampling": lambda: run("UniTalkHearWhileSampling", model, HERE.audio_vae),
        "UniTalkReferenceAudioEncode": lambda: run(
            "UniTalkReferenceAudioEncode", HERE.positive, HERE.audio_vae, audio(), model=model
        ),
        "UniTalkLoraLoader": lambda: run("UniTalkLoraLoader", model, "none.safetensors", 1, 1, 1, 1, 1),
    }
    return {name: error_of(call) for name, call in calls.items()}


def with_range(start: float, end: float) -> Any:
    voiced, _ = run("UniTalkReferenceAudioEncode", HERE.positive, HERE.audio_vae, audio())
    return run("UniTalkVoiceRange", voiced, start, end)


@measure
def wrong_lengths() -> dict[str, str]:
    frames, latent, short = torch.zeros(25, 64, 64, 3), empty(), torch.zeros(13, 64, 64, 3)

    def mux(images: Any = frames, sound: Any = None, fps: float = 25.0) -> Callable[[], Any]:
        return lambda: run("UniTalkMuxAV", images, audio() if sound is None else sound, fps, "error")

    silent = {"waveform": torch.zeros(1, 1, 32000), "sample_rate": 16000}
    calls: dict[str, Callable[[], Any]] = {
        "mux a short sound": mux(sound=audio(0.5)),
        "mux an odd width": mux(images=torch.zeros(25, 64, 63, 3)),
        "mux no frames": mux(images=torch.zeros(0, 64, 64, 3)),
        "mux an empty sound": mux(sound=audio(0)),
        "keep a long sound": lambda: run("UniTalkKeepAudio", latent, HERE.audio_vae, audio(2)),
        "keep a short picture": lambda: run("UniTalkKeepVideo", latent, HERE.vae, short),
        "keep an empty sound": lambda: run("UniTalkKeepAudio", latent, HERE.audio_vae, audio(0)),
        "a silent voice": lambda: run("UniTalkReferenceAudioEncode", HERE.positive, HERE.audio_vae, silent),
        "an empty voice": lambda: run("UniTalkReferenceAudioEncode", HERE.positive, HERE.audio_vae, audio(0)),
        "a voice behind the end": lambda: joint(positive=with_range(5.0, 6.0)),
        "a voice's seconds in context windows": lambda: sampled(
            windows("ContextWindowsManual", 4, 2), empty(seconds=1.0), positive=with_range(0.0, 0.5)
        ),
        "a range without a voice": lambda: run("UniTalkVoiceRange", HERE.positive, 0.0, 1.0),
        "streams of one clip and of two": lambda: joint(latent=nested(picture(), sound(2, 20, 21))),
        "no seconds": lambda: empty(seconds=0.0),
        "an odd size": lambda: empty(width=72),
    }
    return {name: error_of(call) for name, call in calls.items()}
