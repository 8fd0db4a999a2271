"""The other nodes: schemas, codecs, text, voice, lengths, and what bad input gets."""

from __future__ import annotations

import asyncio
import importlib
import io
import logging
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import comfy.model_management
import comfy.nested_tensor
import comfy.sd
import comfy.utils
import comfyui_version
import folder_paths
import latent_preview
import numpy as np
import torch
from comfy.text_encoders import wan
from reduced import piece_model
from rig import HERE, NODES, core, empty, error_of, host_nodes, joint, measure, pair, run, shown, worst


@measure
def version() -> str:
    return comfyui_version.__version__


@measure
def schemas() -> dict[str, Any]:
    """Ids, inputs and outputs as the running host knows them."""
    table = {}
    for name in (one for one in NODES if one.startswith("UniTalk")):
        schema = NODES[name].GET_SCHEMA()
        table[name] = {
            "inputs": [[one.id, one.io_type, getattr(one, "default", None)] for one in schema.inputs],
            "outputs": [[one.display_name, one.io_type] for one in schema.outputs],
        }
    return table


@measure
def streams_apart_and_together() -> bool:
    latent = joint(steps=1)
    video, audio = run("LTXVSeparateAVLatent", latent)
    again = run("LTXVConcatAVLatent", video, audio)
    return all(torch.equal(a, b) for a, b in zip(pair(latent), pair(again), strict=True))


@measure
def decoders() -> dict[str, Any]:
    """Our decoders, the stock ones, and the core's own codecs on one latent."""
    latent, loading = joint(), core("nodes.loading").load_miniature()
    video, audio = pair(latent)
    images, sound = (
        run("UniTalkWanVAEDecode", latent, HERE.vae),
        run("UniTalkBigVGANVocode", latent, HERE.audio_vae),
    )
    stock = NODES["VAEDecode"]().decode(HERE.vae, latent)[0]
    stock_sound = run("VAEDecodeAudio", HERE.audio_vae, latent)
    pixels = loading.video_vae.decode(HERE.model.model.latent_format.process_in(video))
    back = NODES["VAEEncode"]().encode(HERE.vae, images)[0]["samples"]
    heard = run("VAEEncodeAudio", HERE.audio_vae, sound)["samples"]
    return {
        "images": list(images.shape),
        "stock": worst(stock, images),
        "core": worst(images, pixels[0].permute(1, 2, 3, 0).add(1).div(2)),
        "sound": list(sound["waveform"].shape),
        "loudness": worst(sound["waveform"][0], loading.audio_codec.decode(audio)),
        "stock_sound": [
            list(stock_sound["waveform"].shape),
            stock_sound["sample_rate"],
            sound["sample_rate"],
        ],
        "encoded": [list(back.shape), list(video.shape), list(heard.shape), list(audio.shape)],
    }


@measure
def vocoders() -> dict[str, Any]:
    """MMAudio's VAE and BigVGAN at both rates, small, from files, through our nodes and the stock ones."""
    loading, vocoder = core("unitalk_core.weights.loading"), core("unitalk_core.models.vocoder")
    audio_vae, mels, found = core("unitalk_core.models.audio_vae"), core("unitalk_core.models.mel"), {}
    folder = Path(tempfile.mkdtemp())
    folder_paths.add_model_folder_path("vae", str(folder))
    sizes = {
        "16k": (mels.MEL_16K, audio_vae.AUDIO_VAE_16K, (4, 4, 4, 4)),
        "44k": (mels.MEL_44K, audio_vae.AUDIO_VAE_44K, (8, 4, 4, 4)),
    }
    torch.manual_seed(0)
    for name, (mel, full, rates) in sizes.items():
        config = replace(full, width=8)
        spoken = vocoder.BigVGANConfig(
            mels=mel.mels, width=16, rates=rates, kernels=tuple(2 * rate for rate in rates)
        )
        vae, voice = audio_vae.AudioVAE(config), vocoder.BigVGAN(spoken)
        files = [str(folder / f"{name}_{part}.safetensors") for part in ("vae", "voice")]
        loading.save_part(files[0], vae.state_dict(), {"audio_vae": config, "mel": mel}, int8=False)
        loading.save_part(files[1], voice.state_dict(), {"vocoder": spoken}, int8=False)
        loaded = run("UniTalkLoadAudioVAE", *(Path(one).name for one in files))
        latent = torch.randn(2, config.latent_channels, 12)
        sound = run("UniTalkBigVGANVocode", {"samples": latent}, loaded)
        stock = run("VAEDecodeAudio", loaded, {"samples": latent})
        back = run("VAEEncodeAudio", loaded, sound)["samples"]
        true = loading.load_audio_codec(*files).decode(latent)
        found[name] = {
            "shape": list(sound["waveform"].shape),
            "rates": [sound["sample_rate"], stock["sample_rate"]],
            "as it is": worst(sound["waveform"][:, 0], true),
            "stock": list(stock["waveform"].shape),
            "encoded": list(back.shape),
        }
    return found


@measure
def tiles() -> dict[str, Any]:
    """A picture of odd sides decoded whole and in tiles, by the miniature's VAE and the host's own class."""
    picture = torch.rand(2, 3, 5, 10, 7, generator=torch.Generator().manual_seed(3))
    soft = torch.nn.functional.interpolate(picture, size=(5, 160, 112), mode="trilinear").movedim(1, -1)
    clips = [NODES["VAEEncode"]().encode(HERE.vae, one)[0]["samples"] for one in soft]
    latent = {"samples": torch.cat(clips)}

    def decode(tile: int, overlap: int = 32) -> torch.Tensor:
        return run("UniTalkWanVAEDecode", latent, HERE.vae, tile, overlap)

    whole, steps = decode(0), []
    comfy.utils.set_progress_bar_global_hook(lambda value, total, *_, **__: steps.append([value, total]))
    tiled = decode(64)
    comfy.utils.set_progress_bar_global_hook(None)
    stock = run_stock_tiles(latent)
    return {
        "shape": list(tiled.shape),
        "difference": float((tiled - whole).abs().mean()),
        "one tile": worst(decode(160), whole),
        "no overlap": float((decode(64, 0) - whole).abs().mean()),
        "stock": worst(tiled, stock),
        "progress": [one for one in steps if one[1] == 24],
        "interrupt": interrupted_in_a_tile(decode),
        "sentence": error_of(lambda: decode(40)),
        "overlap": error_of(lambda: decode(64, 64)),
    }


def run_stock_tiles(latent: dict[str, Any]) -> torch.Tensor:
    """The host's own tiles of the same size, clip by clip, as IMAGE."""
    return HERE.vae.decode_tiled(latent["samples"], tile_x=4, tile_y=4, overlap=2).flatten(0, 1)


def interrupted_in_a_tile(decode: Callable[[int], Any]) -> str:
    comfy.model_management.interrupt_current_processing(True)
    try:
        decode(64)
    except comfy.model_management.InterruptProcessingException:
        return "interrupted"
    return "not interrupted"


@measure
def preview_colours() -> float:
    """How much of a soft picture's colours the preview of its latent shows, as a correlation."""
    spots = torch.rand(1, 3, 2, 2, generator=torch.Generator().manual_seed(7))
    picture = torch.nn.functional.interpolate(spots, size=64, mode="bilinear").movedim(1, -1)
    latent = NODES["VAEEncode"]().encode(HERE.vae, picture)[0]["samples"]
    scaling = HERE.model.model.latent_format
    previewer = latent_preview.get_previewer(torch.device("cpu"), scaling)
    shown = np.asarray(previewer.decode_latent_to_preview(scaling.process_in(latent))) / 255
    wanted = torch.nn.functional.avg_pool2d(picture.movedim(-1, 1), 16)[0].movedim(0, -1)
    return float(np.corrcoef(shown.ravel(), wanted.numpy().ravel())[0, 1])


@measure
def wan_vae_of_the_host() -> float:
    """The host's Wan2.2 VAE and the core's, small and with the same weights: one raw latent, one picture."""
    video_vae = core("unitalk_core.models.video_vae")
    theirs_module = importlib.import_module("comfy.ldm.wan.vae2_2")
    config = video_vae.VideoVAEConfig(mean=(0.0,) * 48, std=(1.0,) * 48, encoder_width=16, decoder_width=16)
    torch.manual_seed(0)
    ours = video_vae.VideoVAE(config).eval()
    theirs = theirs_module.WanVAE(
        dim=16, dec_dim=16, z_dim=48, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[],
        temperal_downsample=[False, True, True], dropout=0.0,
    ).eval()  # fmt: skip
    theirs.load_state_dict(ours.state_dict())
    raw = torch.randn(1, 48, 3, 2, 2)
    return worst(ours.decode_raw(raw), theirs.decode(raw))


@measure
def voice() -> dict[str, Any]:
    """A reference voice of another rate and more channels; one too long, one too short, none."""

    def speak(seconds: float, rate: int = 48000, channels: int = 2) -> dict[str, Any]:
        noise = torch.randn(1, channels, int(seconds * rate), generator=torch.Generator().manual_seed(1))
        return {"waveform": noise * 0.1, "sample_rate": rate}

    def encoded(audio: dict[str, Any], **given: Any) -> tuple[Any, str]:
        return run("UniTalkReferenceAudioEncode", HERE.positive, HERE.audio_vae, audio, **given)

    told, used = encoded(speak(3))
    long, _ = encoded(speak(8))
    heard, cut = encoded(speak(8, 44100, 6), stretch="from start", start=1.5, model=HERE.model)
    return {
        "used": [used, cut, list(heard[0][1]["reference"].shape)],
        "shape": list(told[0][1]["reference"].shape),
        "changes": worst(pair(joint(positive=told))[1], pair(joint())[1]),
        "long": list(pair(joint(positive=long))[1].shape),
        "none": error_of(lambda: run("UniTalkReferenceAudioEncode", HERE.positive, HERE.audio_vae, None)),
        "short": error_of(
            lambda: run("UniTalkReferenceAudioEncode", HERE.positive, HERE.audio_vae, speak(0.1))
        ),
    }


@measure
def text() -> dict[str, Any]:
    """Our text node, and the stock one on the same prompt."""
    ours, prompt = run("UniTalkTextEncode", HERE.clip, "", "hello (melody:1.5)", "", "auto")
    stock = NODES["CLIPTextEncode"]().encode(HERE.clip, prompt)[0]
    plain = run("UniTalkTextEncode", HERE.clip, "", "hello melody", "", "auto")[0]
    ovi = run("UniTalkTextEncode", HERE.clip, "A room.", "hello", "rain", "ovi-960")[1]
    with shown() as said:
        run("UniTalkTextEncode", HERE.clip, "a (knight:1.2), gray hair", "hello 😀", "", "auto")
        run("UniTalkTextEncode", HERE.clip, "a woman", "hello", "", "auto")
        run("UniTalkNegativeEncode", HERE.clip, "blur, (bad:1.2) hair", "an echo, blur")
    ratio = (ours[0][0] / plain[0][0])[plain[0][0].any(-1)]
    return {
        "prompt": prompt,
        "same": torch.equal(ours[0][0], stock[0][0]),
        "ovi": ovi,
        "said": said,
        "weights": sorted({round(one, 4) for one in ratio.median(-1).values.tolist()}),
    }


@measure
def negative() -> dict[str, Any]:
    """A text of its own for each stream, with the two streams apart, through both samplers."""
    apart = HERE.model.clone()
    apart.model_options["transformer_options"] |= {"a2v_cross_attn": False, "v2a_cross_attn": False}

    def made(picture: str, sound: str, sample: Callable[..., Any]) -> tuple[torch.Tensor, torch.Tensor]:
        told = run("UniTalkNegativeEncode", HERE.clip, picture, sound)
        return pair(sample(told))

    def ours(told: Any) -> Any:
        guidance = {"video_cfg": 2.0, "audio_cfg": 3.0, "denoise": 1.0}
        seeds = {"video_seed": 1, "audio_seed": 2, "steps": 2, "sampler": "euler"}
        return run("UniTalkJointSampler", apart, HERE.positive, told, empty(), **seeds, **guidance)

    def stock(told: Any) -> Any:
        options = (2, 3.0, "euler", "simple", HERE.positive, told, empty())
        return host_nodes.common_ksampler(apart, 1, *options)[0]

    found = {}
    for name, sample in (("joint", ours), ("ksampler", stock)):
        none, seen, heard = (made(*text, sample) for text in (("", ""), ("a man", ""), ("", "a man")))
        found[name] = [
            [not torch.allclose(a, b, atol=1e-5) for a, b in zip(none, led, strict=True)]
            for led in (seen, heard)
        ]
    return found | {"tags": error_of(lambda: run("UniTalkNegativeEncode", HERE.clip, "", "<S>hi<E>"))}


@measure
def stock_umt5() -> dict[str, Any]:
    """The host's umT5 of type wan, small and with the core's weights, through our text node."""
    made = piece_model(["hello melody", "a woman at a table", "rain on a roof"] * 50, 60)
    text_encoder = core("unitalk_core.models.text_encoder")
    torch.manual_seed(0)
    sizes = text_encoder.UMT5Config(
        vocabulary=256, dim=4096, attention_dim=64, ffn_width=32, heads=2, depth=2
    )
    ours = text_encoder.UMT5Encoder(sizes, text_encoder.sentencepiece_tokenizer(made))
    small = {"vocab_size": 256, "d_model": 4096, "d_kv": 32, "d_ff": 32, "num_heads": 2, "num_layers": 2}
    clip = comfy.sd.CLIP(
        SimpleNamespace(params={}, clip=wan.te(), tokenizer=wan.WanT5Tokenizer),
        tokenizer_data={"spiece_model": torch.frombuffer(bytearray(made), dtype=torch.uint8)},
        model_options={"umt5xxl_model_config": small, "dtype": torch.float32},
        state_dict=[ours.state_dict()],
    )
    told, prompt = run("UniTalkTextEncode", clip, "a woman", "hello (melody)", "rain", "auto")
    weighted, _ = run("UniTalkTextEncode", clip, "", "hello (melody:1.5)", "", "auto")
    bracketed, _ = run("UniTalkTextEncode", clip, "(a room)", "hello (melody:1.5)", "", "auto")
    stock, escaped = (
        NODES["CLIPTextEncode"]().encode(clip, text)[0]
        for text in ("<S>hello (melody:1.5)<E>", r"\(a room\) <S>hello (melody:1.5)<E>")
    )
    return {
        "prompt": prompt,
        "shape": list(told[0][0].shape),
        "core": worst(told[0][0], ours.encode([prompt])),
        "weighted": [
            torch.equal(weighted[0][0], stock[0][0]),
            torch.equal(bracketed[0][0], escaped[0][0]),
        ],
    }


@measure
def lengths() -> dict[str, Any]:
    """What UniTalkMuxAV does with a sound that is 200 ms too short, and with one that fits."""
    images, rate = torch.zeros(25, 64, 64, 3), 16000

    def mux(samples: int, mode: str, fps: float = 25.0) -> Any:
        audio = {"waveform": torch.zeros(1, 1, samples), "sample_rate": rate}
        video = run("UniTalkMuxAV", images, audio, fps, mode)[0].get_components()
        return [len(video.images), video.audio["waveform"].shape[-1], str(video.frame_rate)]

    def report(samples: int, mode: str, fps: float = 25.0) -> str:
        audio = {"waveform": torch.zeros(1, 1, samples), "sample_rate": rate}
        return run("UniTalkMuxAV", images, audio, fps, mode)[1]

    return {
        "reports": [report(15400, "error"), report(12800, "trim"), report(13347, "pad", 29.97)],
        "fits": mux(16000 - 600, "error"),
        "error": error_of(lambda: mux(12800, "error")),
        "pad": mux(12800, "pad"),
        "trim": mux(12800, "trim"),
        "ntsc": mux(16000, "pad", 29.97)[2],
    }


@measure
def saved_video() -> dict[str, Any]:
    """What the host's own way of saving leaves in a file, and beside it."""
    images, found = torch.rand(25, 64, 64, 3), {}
    audio = {"waveform": torch.rand(1, 1, 16000) - 0.5, "sample_rate": 16000}
    for subtitles, provenance in (("none", False), ("track", True), ("srt", True)):
        folder = Path(tempfile.mkdtemp())
        speech = "a man <S>Good (morning:1.2). How are you?<E>"
        options = {"speech": speech, "subtitles": subtitles, "provenance": provenance}
        video, _ = run("UniTalkMuxAV", images, audio, 25.0, "error", **options)
        video.save_to(str(folder / "clip.mp4"), metadata={"prompt": {"1": {}}})
        with av.open(str(folder / "clip.mp4")) as file:
            found[subtitles] = {
                "streams": [one.type for one in file.streams],
                "frames": file.streams.video[0].frames,
                "tags": {name: file.metadata.get(name) for name in ("prompt", "comment", "provenance")},
                "files": sorted(one.name for one in folder.iterdir()),
            }
    stream = io.BytesIO()
    video.save_to(stream)
    wrong = {"speech": " ", "subtitles": "srt"}
    return found | {
        "srt text": (folder / "clip.srt").read_text("utf8"),
        "stream": len(stream.getvalue()),
        "no words": error_of(lambda: run("UniTalkMuxAV", images, audio, 25.0, "error", **wrong)),
    }


@measure
def sentences() -> dict[str, str]:
    """The error of each bad input."""
    images, audio = torch.zeros(25, 64, 64, 3), {"waveform": torch.zeros(1, 1, 16000), "sample_rate": 16000}
    broken = {
        "samples": comfy.nested_tensor.NestedTensor(
            [torch.full((1, 48, 1, 4, 4), float("nan")), torch.zeros(1, 20, 8)]
        )
    }
    foreign = SimpleNamespace(model=SimpleNamespace())
    size = {"width": 64, "height": 64, "fps": 0.0, "batch_size": 1}

    def mux(images: Any = images, audio: Any = audio, fps: float = 25.0) -> Callable[[], Any]:
        return lambda: run("UniTalkMuxAV", images, audio, fps, "error")

    def sound(*shape: int) -> dict[str, Any]:
        return {"waveform": torch.zeros(shape), "sample_rate": 16000}

    calls = {
        "no audio": mux(audio=None),
        "empty audio": mux(audio=sound(1, 1, 0)),
        "three channels": mux(audio=sound(1, 3, 16000)),
        "two clips of sound": mux(audio=sound(2, 1, 16000)),
        "odd width": mux(images=torch.zeros(25, 64, 63, 3)),
        "no frames": mux(images=torch.zeros(0, 64, 64, 3)),
        "no fps": mux(fps=0.0),
        "fps not a number": mux(fps=float("nan")),
        "no prompt": lambda: run("UniTalkTextEncode", HERE.clip, " ", "", "", "auto"),
        "tags in the speech": lambda: run("UniTalkTextEncode", HERE.clip, "", "<S>hi<E>", "", "auto"),
        "illegal size": lambda: run(
            "UniTalkEmptyLatent", HERE.model, **(size | {"width": 72, "seconds": 1.0})
        ),
        "no seconds": lambda: run("UniTalkEmptyLatent", HERE.model, **(size | {"seconds": 0.0})),
        "too many seconds": lambda: run("UniTalkEmptyLatent", HERE.model, **(size | {"seconds": 1000.0})),
        "another model": lambda: run("UniTalkEmptyLatent", foreign, **(size | {"seconds": 1.0})),
        "a latent of nan": lambda: run("UniTalkWanVAEDecode", broken, HERE.vae),
        "a video VAE for sound": lambda: run("UniTalkBigVGANVocode", joint(steps=1), HERE.vae),
        "an audio VAE for picture": lambda: run("UniTalkWanVAEDecode", joint(steps=1), HERE.audio_vae),
        "a latent without sound": lambda: run(
            "UniTalkBigVGANVocode", {"samples": torch.zeros(1, 48, 1, 4, 4)}, HERE.audio_vae
        ),
        "an image latent": lambda: run("UniTalkWanVAEDecode", {"samples": torch.zeros(1, 4, 8, 8)}, HERE.vae),
        "a missing package": lambda: core("nodes.training").check_packages(("torch", "yaml", "accelerate_0")),
        "one side of a size": lambda: run("UniTalkCheckDataset", ".", "tiny", 64, 0),
    }
    return {name: error_of(call) for name, call in calls.items()}


@measure
def previous_host() -> dict[str, Any]:
    """The host's loader and the pack where the host says that it is older."""
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    real, comfyui_version.__version__ = comfyui_version.__version__, "0.30.7"
    try:
        loaded = asyncio.run(host_nodes.load_custom_node(str(HERE.folder), module_parent="custom_nodes"))
    finally:
        comfyui_version.__version__ = real
        logging.getLogger().removeHandler(handler)
    return {"loaded": loaded, "heard": [one for one in heard if "UniTalk" in one]}
