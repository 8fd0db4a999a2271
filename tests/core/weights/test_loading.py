"""Models from files in every spelling, and the miniature's own files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from unitalk_core.av import AV
from unitalk_core.config import OVI_720, OVI_AUDIO, TINY, UNITALK, UNITALK_AUDIO, WAN_VIDEO, ModelConfig
from unitalk_core.footprint import LiveBytes, weight_bytes
from unitalk_core.models.audio_codec import AudioCodec
from unitalk_core.models.audio_vae import AUDIO_VAE_16K, AudioVAE, fold, project_weights
from unitalk_core.models.griffin_lim import GriffinLim
from unitalk_core.models.mel import MEL_16K, Mel
from unitalk_core.models.mmdit import JointDiT, initialise
from unitalk_core.models.text_encoder import PhonemeConfig, PhonemeEncoder, UMT5Config, UMT5Encoder
from unitalk_core.models.video_vae import TINY_VAE, WAN_VAE, VideoVAE
from unitalk_core.models.vocoder import BIGVGAN_16K, BigVGAN
from unitalk_core.models.vocos import VOCOS_TINY, Vocos
from unitalk_core.weights.files import read_metadata, read_tensors, save_tensors
from unitalk_core.weights.loading import (
    CONFIG,
    EMBEDDED_FILES,
    SPIECES,
    Parts,
    as_tensor,
    describe,
    load_audio_codec,
    load_audio_vae,
    load_embedded,
    load_model,
    load_text_encoder,
    load_video_vae,
    load_vocoder,
    read_model,
    read_text_encoder,
    save_embedded,
    save_part,
)

SMALL = {"width": 128, "heads": 1, "depth": 2, "ffn_width": 96, "text_dim": 24}  # 128 a head, as at full size
SMALL_VIDEO = replace(WAN_VIDEO, **SMALL)
SMALL_OVI = replace(OVI_720, streams=AV(SMALL_VIDEO, replace(OVI_AUDIO, **SMALL)))
SMALL_UNITALK = replace(
    UNITALK,
    streams=AV(
        replace(SMALL_VIDEO, reference="linear", reference_dim=40),
        replace(UNITALK_AUDIO, **SMALL),
    ),
)


def trained(config: ModelConfig) -> dict[str, Tensor]:
    """Weights as if trained: no layer is zero."""
    torch.manual_seed(0)
    model = JointDiT(config)
    initialise(model, seed=1)
    return {name: one + 0.02 * torch.randn_like(one) for name, one in model.state_dict().items()}


def same(module: nn.Module, weights: dict[str, Tensor]) -> bool:
    have = module.state_dict()
    return have.keys() == weights.keys() and all(torch.equal(have[name], weights[name]) for name in have)


def in_ovi_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name + ".modulation" if name.endswith(".modulation") and ".head." not in name else name: one
        for name, one in weights.items()
    }


@pytest.mark.parametrize("config", [SMALL_OVI, SMALL_UNITALK], ids=["ovi", "unitalk"])
def test_a_joint_model_is_recognised_by_its_shapes(tmp_path: Path, config: ModelConfig) -> None:
    weights = trained(config)
    save_tensors(tmp_path / "m.safetensors", in_ovi_names(weights))
    model, found = load_model(tmp_path / "m.safetensors")
    assert found == config and same(model, weights)


@pytest.mark.parametrize(
    ("name", "markup", "frames"),
    [
        ("model", "ovi-720", 121),
        ("model_960x960", "ovi-960", 121),
        ("model_960x960_10s", "ovi-960", 241),
    ],
)
def test_the_names_of_ovis_files_tell_its_variants(
    tmp_path: Path, name: str, markup: str, frames: int
) -> None:
    save_tensors(tmp_path / f"{name}.safetensors", trained(SMALL_OVI))
    _, config = load_model(tmp_path / f"{name}.safetensors")
    assert (config.markup, config.format.max_frames) == (markup, frames)


def test_ovis_split_files_make_one_model_together_and_none_alone(tmp_path: Path) -> None:
    weights = trained(SMALL_OVI)
    video = {
        n.removeprefix("video_model."): one for n, one in weights.items() if n.startswith("video_model.")
    }
    audio = {n: one for n, one in weights.items() if n.startswith("audio_model.")}
    paths = [tmp_path / "video_bf16.safetensors", tmp_path / "audio_bf16.safetensors"]
    for path, part in zip(paths, (video, audio), strict=True):
        save_tensors(path, part)
    model, config = load_model(paths)
    assert config == SMALL_OVI and same(model, weights)
    with pytest.raises(ValueError, match="holds only the video stream of an Ovi model"):
        load_model(paths[0])
    with pytest.raises(ValueError, match="another file holds already"):
        load_model([paths[0], paths[0]])


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "model.model.", "net.", "model."])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_wan_loads_under_any_prefix(tmp_path: Path, prefix: str, suffix: str) -> None:
    weights = trained(config := ModelConfig(streams=AV(SMALL_VIDEO, None), format=UNITALK.format))
    named = {prefix + name.removeprefix("video_model."): one for name, one in weights.items()}
    path = tmp_path / f"wan{suffix}"
    save_tensors(path, named) if suffix == ".safetensors" else torch.save({"module": named}, path)
    model, found = load_model(path)
    assert found == config and same(model, weights)


def test_scaled_fp8_becomes_half_precision(tmp_path: Path) -> None:
    weights = trained(SMALL_OVI)
    packed = {"model.diffusion_model.scaled_fp8": torch.empty(0, dtype=torch.float8_e4m3fn)}
    for name, one in weights.items():
        linear = name.endswith(("q.weight", "ffn.0.weight"))
        packed[f"model.diffusion_model.{name}"] = (one * 16).to(torch.float8_e4m3fn) if linear else one.half()
        if linear:
            packed[f"model.diffusion_model.{name.removesuffix('weight')}scale_weight"] = torch.tensor(1 / 16)
    save_tensors(tmp_path / "fp8.safetensors", packed)
    model, _ = load_model(tmp_path / "fp8.safetensors")
    assert {one.dtype for one in model.state_dict().values()} == {torch.float16}
    for name, one in model.state_dict().items():
        torch.testing.assert_close(one.float(), weights[name], rtol=0.07, atol=2e-3)
    model, _ = load_model(tmp_path / "fp8.safetensors", dtype=torch.bfloat16)
    assert {one.dtype for one in model.state_dict().values()} == {torch.bfloat16}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".safetensors.index.json"])
def test_another_precision_is_that_of_each_weight_alone(tmp_path: Path, suffix: str) -> None:
    weights = {name: one.half() if one.ndim > 1 else one for name, one in trained(SMALL_OVI).items()}
    path = tmp_path / f"m{suffix}"
    if suffix == ".pth":
        torch.save(weights, path)
    elif suffix == ".safetensors":
        save_tensors(path, weights)
    else:
        names, table = list(weights), {}
        for i in range(2):
            table |= dict.fromkeys(names[i::2], f"m-0000{i + 1}-of-00002.safetensors")
            save_tensors(tmp_path / table[names[i]], {name: weights[name] for name in names[i::2]})
        path.write_text(json.dumps({"weight_map": table}))
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        model, config = load_model(path, dtype=dtype)
        assert config.streams == SMALL_OVI.streams
        assert same(model, {name: one.to(dtype) for name, one in weights.items()})
        assert {one.dtype for one in model.parameters()} == {dtype}


def test_what_is_named_keeps_the_precision_of_its_file_beside_the_rest(tmp_path: Path) -> None:
    weights = trained(SMALL_OVI)
    save_tensors(tmp_path / "m.safetensors", weights)
    read, _ = read_model(tmp_path / "m.safetensors", torch.bfloat16, but=(".modulation",))
    assert read.keys() == weights.keys()
    for name, one in weights.items():
        assert torch.equal(read[name], one if name.endswith(".modulation") else one.bfloat16()), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_loading_makes_no_more_than_the_weights_in_their_new_precision(tmp_path: Path, dtype) -> None:
    """Beside the file, which is mapped: in its own precision it costs nothing but its pages."""
    weights = {name: one.half() for name, one in trained(SMALL_OVI).items()}
    save_tensors(tmp_path / "m.safetensors", weights)
    with LiveBytes("cpu") as live:
        model, _ = load_model(tmp_path / "m.safetensors", dtype=dtype)
    made = live.peak - sum(one.nbytes for one in weights.values())
    size = 0 if dtype == torch.float16 else weight_bytes(model)
    assert size <= made <= 1.1 * size


def test_a_lora_that_is_taken_for_a_model_is_called_one(tmp_path: Path) -> None:
    name = "diffusion_model.video_model.blocks.0.ffn.0.lora_up.weight"
    save_tensors(tmp_path / "lora.safetensors", {name: torch.zeros(4, 2)})
    for load in (load_model, load_video_vae, load_vocoder):
        with pytest.raises(
            ValueError, match=r"lora\.safetensors is a LoRA and holds no (model|video vae|vocoder)"
        ):
            load(tmp_path / "lora.safetensors")


def test_models_that_are_none_of_ours_are_named(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_tensors(
        path,
        trained(ModelConfig(streams=AV(replace(SMALL_VIDEO, out_channels=16), None), format=UNITALK.format)),
    )
    with pytest.raises(ValueError, match=r"makes 16 latent channels; Wan2\.2-TI2V-5B makes 48"):
        load_model(path)
    save_tensors(
        path, trained(ModelConfig(streams=AV(replace(SMALL_VIDEO, width=96), None), format=UNITALK.format))
    )
    with pytest.raises(ValueError, match="width 96 and no configuration"):
        load_model(path)
    weights = trained(SMALL_OVI)
    del weights["audio_model.blocks.1.norm3.bias"]
    save_tensors(path, weights)
    with pytest.raises(ValueError, match=r"1 missing \['audio_model.blocks.1.norm3.bias'\]"):
        load_model(path)
    save_tensors(path, {"unet.weight": torch.zeros(3)})
    for load in (load_model, load_video_vae, load_audio_vae, load_vocoder, load_text_encoder):
        with pytest.raises(ValueError, match="nothing this project knows; looked for"):
            load(path)


def test_a_stored_configuration_comes_first(tmp_path: Path) -> None:
    path, config = tmp_path / "m.safetensors", replace(TINY, shift=2.5)
    weights = trained(config)
    save_part(path, weights, {"model": config}, int8=False)
    model, found = load_model(path)
    assert found == config and same(model, weights)
    assert describe(path)["config"] == {"model": json.loads(json.dumps(config.to_json()))}
    assert describe(path)["holds"] == ["joint model"]
    assert describe(path)["parameters"] == sum(one.numel() for one in weights.values())
    save_tensors(path, weights, {"unitalk": "[1]"})
    with pytest.raises(ValueError, match="a list instead of a table"):
        load_model(path)


def test_a_configuration_is_read_from_a_tensor_where_the_metadata_have_none(tmp_path: Path) -> None:
    path, config = tmp_path / "m.safetensors", replace(TINY, shift=2.5)
    weights = trained(config)
    prefixed = {f"model.diffusion_model.{name}": one for name, one in weights.items()}
    save_tensors(path, prefixed | {CONFIG: as_tensor(model=config)})
    model, found = load_model(path)
    assert found == config and same(model, weights)


def test_a_video_vae_loads_bare_or_inside_a_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae = VideoVAE(replace(WAN_VAE, encoder_width=8, decoder_width=8, multipliers=(1, 2, 4, 4)))
    torch.save(vae.state_dict(), tmp_path / "Wan2.2_VAE.pth")
    save_tensors(tmp_path / "all.safetensors", {f"vae.{n}": one for n, one in vae.state_dict().items()})
    for name in ("Wan2.2_VAE.pth", "all.safetensors"):
        loaded = load_video_vae(tmp_path / name)
        assert loaded.config == vae.config and same(loaded, dict(vae.state_dict()))


def mmaudio(tmp_path: Path) -> tuple[Path, AudioVAE, BigVGAN]:
    """One file in ComfyUI's form: folded VAE and vocoder, and the mel's filters."""
    torch.manual_seed(0)
    vae = AudioVAE(replace(AUDIO_VAE_16K, width=16))
    project_weights(vae)
    vocoder = BigVGAN(replace(BIGVGAN_16K, width=64))
    tensors = {f"vae.{name}": one for name, one in vae.state_dict().items()}
    tensors |= {f"vocoder.{name}": one for name, one in vocoder.state_dict().items()}
    save_tensors(
        tmp_path / "mmaudio.safetensors", tensors | {"mel_converter.mel_basis": torch.zeros(80, 513)}
    )
    return tmp_path / "mmaudio.safetensors", vae, vocoder


def test_one_file_of_mmaudio_gives_a_codec(tmp_path: Path) -> None:
    path, vae, vocoder = mmaudio(tmp_path)
    codec = load_audio_codec(path, path)
    assert codec.sample_rate == 16000 and codec.stride == 512
    assert same(codec.vae, dict(vae.state_dict())) and same(codec.vocoder, dict(vocoder.state_dict()))
    assert isinstance(load_audio_codec(path).vocoder, GriffinLim)
    assert describe(path)["holds"] == ["MMAudio VAE", "BigVGAN"]


def test_raw_audio_weights_are_folded_once(tmp_path: Path) -> None:
    path, vae, _ = mmaudio(tmp_path)
    raw = {n: one * 3 if one.ndim == 3 else one for n, one in vae.state_dict().items()}
    torch.save(raw, tmp_path / "v1-16.pth")
    loaded = load_audio_vae(tmp_path / "v1-16.pth")
    assert same(loaded, fold(raw)) and not same(loaded, raw)
    assert same(load_audio_vae(path), dict(vae.state_dict()))


@pytest.mark.parametrize(
    ("gain", "direction"),
    [("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1")],
)
def test_both_spellings_of_weight_norm_give_one_vocoder(tmp_path: Path, gain: str, direction: str) -> None:
    torch.manual_seed(0)
    vocoder = BigVGAN(replace(BIGVGAN_16K, width=64))
    pairs: dict[str, Tensor] = {}
    for name, one in vocoder.state_dict().items():
        stem, _, last = name.rpartition(".")
        if last == "weight":
            norm = torch.linalg.vector_norm(one, dim=(1, 2), keepdim=True)
            pairs |= {f"{stem}.{gain}": norm, f"{stem}.{direction}": one * 1.7}
        else:
            pairs[name] = one
    torch.save({"generator": pairs}, tmp_path / "g.pt")
    mel = torch.randn(1, 80, 5)
    torch.testing.assert_close(
        load_vocoder(tmp_path / "g.pt")(mel), vocoder.eval()(mel), rtol=1e-4, atol=1e-5
    )


def test_umt5_loads_out_of_a_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = UMT5Config(vocabulary=50, dim=16, attention_dim=16, ffn_width=24, heads=2, depth=2)
    weights = dict(UMT5Encoder(config).state_dict())
    prefix = "text_encoders.umt5xxl.transformer."
    inside = {prefix + name: one for name, one in weights.items()}
    save_tensors(
        tmp_path / "hf.safetensors", inside | {f"{prefix}encoder.embed_tokens.weight": torch.zeros(50, 16)}
    )
    assert same(load_text_encoder(tmp_path / "hf.safetensors"), weights)
    with pytest.raises(ValueError, match="no tokenizer"):
        load_text_encoder(tmp_path / "hf.safetensors").encode(["a"])


@pytest.mark.parametrize("place", SPIECES)
def test_a_tokenizer_is_found_where_its_publishers_put_it(tmp_path: Path, pieces: bytes, place: str) -> None:
    path = tmp_path / "text_encoder" / "t5.pth"
    path.parent.mkdir()
    config = UMT5Config(vocabulary=64, dim=8, attention_dim=8, ffn_width=12, heads=2, depth=1)
    torch.save(UMT5Encoder(config).state_dict(), path)
    with pytest.raises(FileNotFoundError, match=r"t5\.pth has no tokenizer inside and none beside it; put"):
        read_text_encoder(path)
    found = path.parent / place
    found.parent.mkdir(parents=True, exist_ok=True)
    found.write_bytes(pieces)
    weights, sizes = read_text_encoder(path)
    assert (bytes(weights["spiece_model"].tolist()), sizes) == (pieces, config)
    assert load_text_encoder(path).encode(["hello"]).shape == (1, 512, 8)
    save_tensors(path.with_name("whole.safetensors"), weights)
    again, _ = read_text_encoder(path.with_name("whole.safetensors"))
    assert again.keys() == weights.keys() and all(torch.equal(again[name], weights[name]) for name in again)


def test_the_tokenizer_of_another_model_is_refused(tmp_path: Path, pieces: bytes) -> None:
    config = UMT5Config(vocabulary=9000, dim=8, attention_dim=8, ffn_width=12, heads=2, depth=1)
    torch.save(UMT5Encoder(config).state_dict(), tmp_path / "t5.pth")
    (tmp_path / "spiece.model").write_bytes(pieces)
    with pytest.raises(ValueError, match=r"spiece\.model has \d+ pieces, and .*t5\.pth knows 9000"):
        read_text_encoder(tmp_path / "t5.pth")
    (tmp_path / "spiece.model").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"spiece\.model is no SentencePiece model; fetch it again"):
        read_text_encoder(tmp_path / "t5.pth")


@pytest.fixture(scope="module")
def miniature() -> Parts:
    torch.manual_seed(0)
    model = JointDiT(TINY)
    model.load_state_dict(trained(TINY))
    vae = AudioVAE(replace(AUDIO_VAE_16K, width=24))
    project_weights(vae)
    codec = AudioCodec(Mel(MEL_16K), vae, Vocos(VOCOS_TINY))
    return Parts(
        model.eval(), TINY, VideoVAE(TINY_VAE).eval(), codec.eval(), PhonemeEncoder(PhonemeConfig()).eval()
    )


def test_the_miniature_survives_int8(tmp_path: Path, miniature: Parts) -> None:
    save_embedded(tmp_path, miniature)
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted(EMBEDDED_FILES)
    loaded = load_embedded(tmp_path)
    assert loaded.config == TINY
    assert loaded.video_vae.config == TINY_VAE and loaded.audio_codec.mel.config == MEL_16K
    assert loaded.text_encoder.config.to_json() == miniature.text_encoder.config.to_json()
    for ours, theirs in zip(loaded, miniature, strict=True):
        if isinstance(ours, nn.Module):
            for name, one in ours.state_dict().items():
                original = theirs.state_dict()[name]
                assert one.dtype == torch.float32
                assert (one - original).abs().max() <= original.abs().max() / 127 / 2 * 1.001, name
    stored = json.loads(read_metadata(tmp_path / "model.safetensors")["unitalk"])
    assert sorted(stored) == ["model", "text_encoder"]
    assert any(one.dtype == torch.int8 for one in read_tensors(tmp_path / "model.safetensors").values())
    model, config = load_model(tmp_path / "model.safetensors")
    assert config == TINY and same(model, dict(loaded.model.state_dict()))


def test_an_incomplete_miniature_says_what_it_lacks(tmp_path: Path, miniature: Parts) -> None:
    save_embedded(tmp_path, miniature)
    (tmp_path / "vocoder.safetensors").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"the miniature is incomplete: .* lacks vocoder\.safetensors"
    ):
        load_embedded(tmp_path)
