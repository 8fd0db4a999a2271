"""VAEs and vocoders in the spellings that their authors publish: narrow, or without data."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.ldm.wan.vae2_2
import folder_paths
import torch
from full_size import Weights, write
from rig import core, error_of, measure, run, stock, worst

FOLDER = Path(tempfile.mkdtemp())
folder_paths.add_model_folder_path("vae", str(FOLDER))
FILES = {"16k": ("v1-16.pth", "best_netG.pt"), "44k": ("v1-44.pth", "bigvgan_generator.pt")}
WAN_2_2 = {"dim": 160, "z_dim": 48, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": []}


def narrow(rate: str) -> tuple[Any, Any]:
    """MMAudio's VAE and BigVGAN of that rate, with the sizes that weights tell."""
    audio_vae, vocoder = core("unitalk_core.models.audio_vae"), core("unitalk_core.models.vocoder")
    torch.manual_seed(0)
    vae = audio_vae.AudioVAE(replace(getattr(audio_vae, f"AUDIO_VAE_{rate.upper()}"), width=16))
    voice = vocoder.BigVGAN(replace(getattr(vocoder, f"BIGVGAN_{rate.upper()}"), width=64))
    return vae.eval(), voice.eval()


def raw(vae: Any) -> Weights:
    """As it was trained: each convolution's weight at any size."""
    return {name: one * 3 if one.ndim == 3 else one for name, one in vae.state_dict().items()}


def normed(voice: Any) -> Weights:
    """As it was trained: each weight as a gain and a direction."""
    pairs: Weights = {}
    for name, one in voice.state_dict().items():
        if name.endswith(".weight"):
            gain = torch.linalg.vector_norm(one, dim=(1, 2), keepdim=True)
            pairs |= {f"{name}_g": gain, f"{name}_v": one * 1.7}
        else:
            pairs[name] = one
    return pairs


@measure
def audio_files() -> dict[str, Any]:
    """Both rates through our loader and decoder, beside the core's own modules with the same weights."""
    audio_codec, mel = core("unitalk_core.models.audio_codec"), core("unitalk_core.models.mel")
    fold, found = core("unitalk_core.models.audio_vae").fold, {}
    for rate, names in FILES.items():
        vae, voice = narrow(rate)
        write(FOLDER, names[0], raw(vae))
        write(FOLDER, names[1], {"generator": normed(voice)})
        vae.load_state_dict(fold(raw(vae)))
        whole = {f"vae.{key}": one for key, one in vae.state_dict().items()}
        whole |= {f"vocoder.{key}": one for key, one in voice.state_dict().items()}
        write(FOLDER, f"mmaudio_{rate}.safetensors", whole)
        latent = torch.randn(2, vae.config.latent_channels, 9, generator=torch.Generator().manual_seed(1))
        exact = audio_codec.AudioCodec(mel.Mel(getattr(mel, f"MEL_{rate.upper()}")), vae, voice).decode(
            latent
        )
        for name, files in {rate: names, f"{rate} in one": (f"mmaudio_{rate}.safetensors",) * 2}.items():
            loaded = run("UniTalkLoadAudioVAE", *files)
            sound = run("UniTalkBigVGANVocode", {"samples": latent}, loaded)
            back = stock("VAEEncodeAudio", loaded, sound)["samples"]
            made = worst(sound["waveform"][:, 0], exact), sound["sample_rate"], list(back.shape)
            found[name] = list(made)
    return found


@measure
def wrong_audio_files() -> dict[str, str]:
    for rate, names in FILES.items():
        vae, voice = narrow(rate)
        write(FOLDER, names[0], raw(vae))
        write(FOLDER, names[1], {"generator": normed(voice)})
    half = normed(narrow("16k")[1])
    del half["conv_pre.weight_g"]
    write(FOLDER, "half.pt", {"generator": half})
    lacking = raw(narrow("44k")[0])
    del lacking["decoder.mid.attn_1.qkv.weight"]
    write(FOLDER, "lacking.pth", lacking)
    cut = FOLDER / "cut.pth"
    cut.write_bytes((FOLDER / "v1-16.pth").read_bytes()[:-2000])
    pairs = {
        "other rate": ("v1-16.pth", "bigvgan_generator.pt"),
        "swapped": ("best_netG.pt", "v1-16.pth"),
        "half": ("v1-16.pth", "half.pt"),
        "lacking": ("lacking.pth", "griffin-lim"),
        "cut": ("cut.pth", "griffin-lim"),
    }
    return {
        name: error_of(lambda pair=pair: run("UniTalkLoadAudioVAE", *pair)) for name, pair in pairs.items()
    }


@measure
def wan_vae_names() -> dict[str, Any]:
    """The authors' Wan2.2_VAE.pth has our names: the host's own VAE wants the same, at full size."""
    video_vae = core("unitalk_core.models.video_vae")
    with torch.device("meta"):
        ours = video_vae.VideoVAE(video_vae.WAN_VAE)
        theirs = comfy.ldm.wan.vae2_2.WanVAE(**WAN_2_2, temperal_downsample=[False, True, True], dropout=0.0)
    ours, theirs = (
        {name: tuple(one.shape) for name, one in module.state_dict().items()} for module in (ours, theirs)
    )
    return {"same": ours == theirs, "tensors": len(ours)}
