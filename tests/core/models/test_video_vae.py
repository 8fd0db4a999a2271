"""The video VAE: chunks, causality, gradients, memory and refusals. Its numbers are held in tests/parity."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from unitalk_core.models.video_vae import (
    TINY_VAE,
    WAN_VAE,
    ChannelNorm,
    DownLevel,
    UpLevel,
    Upsample,
    VideoVAE,
    VideoVAEConfig,
    causal,
    channels_to_space,
    doubled,
    patchify,
    pays,
    space_to_channels,
    two_frames_at_once,
    unpatchify,
)

NARROW = VideoVAEConfig(
    mean=(0.1, -0.2, 0.3, 0.0),
    std=(0.5, 1.5, 1.0, 2.0),
    latent_channels=4,
    encoder_width=4,
    decoder_width=4,
    blocks=1,
)


def narrow(config: VideoVAEConfig = NARROW) -> VideoVAE:
    torch.manual_seed(0)
    return VideoVAE(config)


@pytest.fixture(scope="module")
def vae() -> VideoVAE:
    return narrow().double().requires_grad_(False)


def pixels(frames: int, height: int = 32, width: int = 48, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.rand(batch, 3, frames, height, width, generator=generator, dtype=torch.float64) * 2 - 1


def latents(frames: int, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randn(batch, 4, frames, 2, 3, generator=generator, dtype=torch.float64)


# --- sizes


@pytest.mark.parametrize(("frames", "latent_frames"), [(1, 1), (5, 2), (13, 4)])
def test_one_latent_stands_for_4_by_16_by_16_pixels(vae: VideoVAE, frames: int, latent_frames: int):
    latent = vae.encode(pixels(frames))
    assert latent.shape == (1, 4, latent_frames, 2, 3)
    assert vae.decode(latent).shape == (1, 3, frames, 32, 48)


def test_full_size_runs_through_every_layer_on_the_meta_device():
    with torch.device("meta"):
        full, clip = VideoVAE(WAN_VAE), torch.empty(1, 3, 9, 704, 1280)
    assert sum(p.numel() for p in full.parameters()) == 704_688_668
    latent = full.encode(clip)
    assert latent.shape == (1, 48, 3, 44, 80)
    assert full.decode(latent).shape == clip.shape


def test_the_miniature_is_the_same_layout_and_small():
    tiny = VideoVAE(TINY_VAE)
    assert 4.5e6 < sum(p.numel() for p in tiny.parameters()) < 5.5e6
    with torch.no_grad():
        assert tiny.encode(pixels(5, 64, 64).float()).shape == (1, 48, 2, 4, 4)
    with torch.device("meta"):
        assert tiny.state_dict().keys() == VideoVAE(WAN_VAE).state_dict().keys()


def test_another_depth_in_time_gives_another_stride():
    once = narrow(replace(NARROW, temporal_down=(False, False, True))).double()
    latent = once.encode(pixels(7))
    assert latent.shape[2] == 4
    assert once.decode(latent).shape[2] == 7


# --- chunks


@pytest.mark.parametrize("chunk", [1, 2, 64])
def test_decoding_chunk_by_chunk_is_decoding(vae: VideoVAE, chunk: int):
    chunks = list(vae.decode_chunks(latents(6), chunk))
    assert [c.shape[2] for c in chunks] == {1: [1, 4, 4, 4, 4, 4], 2: [1, 8, 8, 4], 64: [1, 20]}[chunk]
    assert torch.equal(torch.cat(chunks, dim=2), vae.decode(latents(6), chunk))


@pytest.mark.parametrize("pieces", [[13], [1, 4, 4, 4], [2, 3, 8], [1] * 13, [6, 7]])
def test_encoding_pieces_of_any_length_is_encoding(vae: VideoVAE, pieces: list[int]):
    chunks = list(vae.encode_chunks(pixels(13).split(pieces, dim=2)))
    assert [c.shape[2] for c in chunks] == [1, 1, 1, 1]
    assert torch.equal(torch.cat(chunks, dim=2), vae.encode(pixels(13)))


@pytest.mark.parametrize("chunk", [2, 3, 64])
def test_the_numbers_do_not_depend_on_the_chunk(vae: VideoVAE, chunk: int):
    torch.testing.assert_close(vae.encode(pixels(21), chunk), vae.encode(pixels(21)), rtol=0, atol=1e-12)
    torch.testing.assert_close(vae.decode(latents(6), chunk), vae.decode(latents(6)), rtol=0, atol=1e-12)


def test_clips_do_not_remember_each_other(vae: VideoVAE):
    first = vae.decode(latents(3))
    started = vae.decode_chunks(latents(5))
    next(started)
    assert torch.equal(vae.decode(latents(3)), first)


def test_a_batch_is_its_clips(vae: VideoVAE):
    clips, codes = pixels(5, batch=3), latents(3, batch=3)
    apart = torch.cat([vae.encode(clip[None]) for clip in clips])
    torch.testing.assert_close(vae.encode(clips), apart, rtol=0, atol=1e-12)
    apart = torch.cat([vae.decode(code[None]) for code in codes])
    torch.testing.assert_close(vae.decode(codes), apart, rtol=0, atol=1e-12)


# --- causality


@pytest.mark.parametrize("changed", [1, 4, 5, 9])
@pytest.mark.parametrize("chunk", [1, 64])
def test_later_frames_do_not_change_earlier_latents(vae: VideoVAE, changed: int, chunk: int):
    clip = pixels(13)
    other = clip.clone()
    other[:, :, changed:] = -other[:, :, changed:]
    safe = 1 + (changed - 1) // 4  # latent frames whose pixels all lie before the change
    before, after = vae.encode(clip, chunk), vae.encode(other, chunk)
    assert torch.equal(before[:, :, :safe], after[:, :, :safe])
    assert not torch.allclose(before[:, :, safe], after[:, :, safe])


@pytest.mark.parametrize("changed", [1, 3])
@pytest.mark.parametrize("chunk", [1, 64])
def test_later_latents_do_not_change_earlier_frames(vae: VideoVAE, changed: int, chunk: int):
    other = latents(5)
    other[:, :, changed:] += 1
    safe = 1 + 4 * (changed - 1)
    before, after = vae.decode(latents(5), chunk), vae.decode(other, chunk)
    assert torch.equal(before[:, :, :safe], after[:, :, :safe])
    assert not torch.allclose(before[:, :, safe:], after[:, :, safe:])


def test_an_image_is_the_first_frame_of_any_clip(vae: VideoVAE):
    torch.testing.assert_close(vae.encode(pixels(9)[:, :, :1]), vae.encode(pixels(9))[:, :, :1])


# --- memory


def peak_bytes(work) -> int:
    """The most memory that was allocated at one time while `work` ran, beyond what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    events = sorted(record.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    held = peak = 0
    for event in events:
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def test_streaming_needs_no_more_memory_for_a_longer_clip(vae: VideoVAE):
    def decode(frames: int) -> int:
        latent = latents(frames)
        return peak_bytes(lambda: [chunk.shape for chunk in vae.decode_chunks(latent)])

    def encode(frames: int) -> int:
        clip = pixels(4 * frames - 3)
        return peak_bytes(lambda: [latent.shape for latent in vae.encode_chunks(clip.split(4, dim=2))])

    assert 0 < decode(12) < 1.05 * decode(4)
    assert 0 < encode(12) < 1.05 * encode(4)
    whole = latents(12)
    assert peak_bytes(lambda: vae.decode(whole, chunk=12)) > 2 * decode(12)  # the measure can tell


# --- gradients


@pytest.mark.parametrize("chunk", [1, 64])
def test_gradients_are_the_slope_of_the_round_trip(chunk: int):
    vae, clip = narrow().double(), pixels(9, 16, 16)
    pushed = [torch.randn_like(p) for p in vae.parameters()]

    def loss() -> Tensor:
        mean, logvar = vae.posterior(clip, chunk)
        return (vae.decode_raw(mean, chunk) - clip).square().mean() + 0.1 * logvar.square().mean()

    @torch.no_grad()
    def moved(step: float) -> float:
        for parameter, direction in zip(vae.parameters(), pushed, strict=True):
            parameter.add_(direction, alpha=step)
        value = loss().item()
        for parameter, direction in zip(vae.parameters(), pushed, strict=True):
            parameter.sub_(direction, alpha=step)
        return value

    loss().backward()
    slope = sum((p.grad * d).sum().item() for p, d in zip(vae.parameters(), pushed, strict=True))
    assert slope == pytest.approx((moved(1e-6) - moved(-1e-6)) / 2e-6, rel=1e-5)
    assert all(p.grad.abs().max() > 0 for p in vae.parameters())


def test_a_small_one_learns_in_half_precision():
    vae, clip = narrow(), pixels(5, 32, 32, batch=2).float()
    clip = F.avg_pool3d(clip, (1, 15, 15), stride=1, padding=(0, 7, 7)) * 5  # something smooth
    adam, losses = torch.optim.Adam(vae.parameters(), lr=5e-3), []
    for _ in range(25):
        with torch.autocast("cpu", torch.bfloat16):
            out = vae.decode_raw(vae.encode_raw(clip, chunk=2), chunk=2)
        losses.append((out.float() - clip).square().mean())
        adam.zero_grad()
        losses[-1].backward()
        adam.step()
    assert losses[-1] < 0.5 * losses[0]


# --- parts


def test_the_norm_gives_unit_length_and_forgives_zeros():
    norm, x = ChannelNorm(6).double(), torch.randn(2, 6, 3, 4, 5, dtype=torch.float64)
    nn.init.normal_(norm.gamma)
    x[0, :, 0, 0, 0] = 0
    x.requires_grad_()
    torch.testing.assert_close(norm(x), F.normalize(x, dim=1) * 6**0.5 * norm.gamma)
    norm(x).sum().backward()
    assert x.grad.isfinite().all()


def test_the_norm_survives_what_a_half_cannot_square():
    norm, x = ChannelNorm(4).half(), torch.tensor([3000.0, -4000.0, 0.0, 0.0]).view(1, 4, 1, 1, 1)
    torch.testing.assert_close(norm(x.half()).float(), x / 5000 * 2, rtol=1e-3, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_another_device_gives_the_same_numbers(vae: VideoVAE):
    there = narrow().double().requires_grad_(False).cuda()
    torch.testing.assert_close(there.encode(pixels(9).cuda()).cpu(), vae.encode(pixels(9)))
    torch.testing.assert_close(there.decode(latents(3).cuda()).cpu(), vae.decode(latents(3)))


@pytest.mark.parametrize("pieces", [[6], [1, 5], [1] * 6, [2, 3, 1]])
def test_a_causal_convolution_in_pieces_is_one_padded_in_front(pieces: list[int]):
    conv, x, memory = nn.Conv3d(2, 3, 3, padding=(0, 1, 1)).double(), latents(6)[:, :2], {}
    got = torch.cat([causal(conv, piece, memory) for piece in x.split(pieces, dim=2)], dim=2)
    torch.testing.assert_close(got, conv(F.pad(x, (0, 0, 0, 0, 2, 0))))


def test_doubling_frames_starts_from_zeros_after_the_first():
    up, x = Upsample(2, temporal=True).double(), latents(4)[:, :2]
    memory = {}
    first, *rest = [up.double_frames(piece, memory) for piece in x.split(1, dim=2)]
    assert torch.equal(first, x[:, :, :1])
    even, odd = up.time_conv(F.pad(x[:, :, 1:], (0, 0, 0, 0, 2, 0))).chunk(2, dim=1)
    torch.testing.assert_close(torch.cat(rest, dim=2)[:, :, 0::2], even)
    torch.testing.assert_close(torch.cat(rest, dim=2)[:, :, 1::2], odd)


def test_patches_count_columns_before_rows():
    image = torch.arange(4.0).view(1, 1, 1, 2, 2).expand(1, 3, 1, 2, 2)
    assert patchify(image)[0, :4].flatten().tolist() == [0, 2, 1, 3]
    clip = pixels(3)
    assert torch.equal(unpatchify(patchify(clip)), clip)


def test_space_and_channels_are_exchanged_without_loss():
    clip = pixels(4, 8, 8)
    assert torch.equal(channels_to_space(space_to_channels(clip, 2, 2), 2, 2), clip)
    assert torch.equal(space_to_channels(clip[:, :, 1:], 2, 2)[:, 0, 0], torch.zeros(1, 4, 4).double())


def test_the_way_around_a_level_averages_down_and_repeats_up():
    down, up = DownLevel((2, 4), 1, (2, 2)), UpLevel((4, 2), 1, (2, 2))
    ones = torch.ones(1, 2, 5, 4, 4)
    small = down.average(ones)
    # odd and even channels: the two halves of a pair of frames; the very first frame has only one
    assert small.shape == (1, 4, 3, 2, 2)
    assert small.mean((3, 4))[0].tolist() == [[0, 1, 1], [1, 1, 1], [0, 1, 1], [1, 1, 1]]
    for layer in up.upsamples[:1]:
        nn.init.zeros_(layer.residual["6"].weight)
        nn.init.zeros_(layer.residual["6"].bias)
    for parameter in up.upsamples[1].parameters():
        nn.init.zeros_(parameter)
    memory = {}
    chunks = [up(small[:, :, i : i + 1], memory) for i in range(3)]
    assert [c.shape[2] for c in chunks] == [1, 2, 2]
    assert torch.equal(torch.cat(chunks, dim=2), ones)


def test_every_convolution_comes_from_ops():
    class Ops:
        class Conv2d(nn.Conv2d): ...

        class Conv3d(nn.Conv3d): ...

    convolutions = [m for m in VideoVAE(NARROW, ops=Ops).modules() if isinstance(m, nn.Conv2d | nn.Conv3d)]
    assert len(convolutions) > 40
    assert all(isinstance(m, Ops.Conv2d | Ops.Conv3d) for m in convolutions)


# --- latents


def test_latents_are_normalised_per_channel(vae: VideoVAE):
    raw = vae.encode_raw(pixels(5))
    mean, std = (torch.tensor(v).double().view(4, 1, 1, 1) for v in (NARROW.mean, NARROW.std))
    torch.testing.assert_close(vae.encode(pixels(5)), (raw - mean) / std)
    torch.testing.assert_close(vae.denormalise(vae.normalise(raw)), raw)
    assert vae.normalise(raw.bfloat16()).dtype == torch.bfloat16


def test_decode_clamps_and_decode_raw_does_not(vae: VideoVAE):
    loud = latents(2) * 1e3
    raw = vae.decode_raw(vae.denormalise(loud))
    assert raw.abs().max() > 1
    assert torch.equal(vae.decode(loud), raw.clamp(-1, 1))


def test_the_configuration_survives_json():
    assert VideoVAEConfig.from_json(WAN_VAE.to_json()) == WAN_VAE
    listed = {k: list(v) if isinstance(v, tuple) else v for k, v in NARROW.to_json().items()}
    assert VideoVAEConfig.from_json(listed) == NARROW
    assert (WAN_VAE.frame_stride, WAN_VAE.pixel_stride) == (4, 16)


# --- refusals


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 5, 40, 64), "multiples of 16, got 64 x 40; use 64 x 32"),
        ((1, 3, 5, 8, 8), "multiples of 16, got 8 x 8; use 16 x 16"),
        ((1, 3, 6, 32, 32), r"4n\+1 frames, got 6; use 5 or 9"),
        ((1, 3, 0, 32, 32), r"4n\+1 frames, got 0; use 1 or 5"),
        ((1, 4, 5, 32, 32), r"pixels \(b, 3, f, h, w\), got \(1, 4, 5, 32, 32\)"),
        ((3, 5, 32, 32), r"pixels \(b, 3, f, h, w\), got \(3, 5, 32, 32\)"),
    ],
)
def test_encode_refuses_what_it_would_have_to_cut(vae: VideoVAE, shape: tuple[int, ...], message: str):
    with pytest.raises(ValueError, match=message):
        vae.encode(torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize("pieces", [[1, 4, 3], [6], [1, 1], []])
def test_encode_chunks_refuses_a_remainder(vae: VideoVAE, pieces: list[int]):
    with pytest.raises(ValueError, match=rf"4n\+1 frames, got {sum(pieces)}"):
        list(vae.encode_chunks([pixels(n) for n in pieces]))


@pytest.mark.parametrize("shape", [(1, 5, 2, 2, 2), (4, 2, 2, 2), (1, 4, 0, 2, 2)])
def test_decode_refuses_another_shape(vae: VideoVAE, shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"latents \(b, 4, f, h, w\), got"):
        vae.decode(torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_decode_refuses_nan_before_it_starts(vae: VideoVAE, bad: float):
    latent = latents(3)
    latent[0, 1, 2, 1, 1] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        vae.decode_chunks(latent)


def test_nan_stays_visible_from_its_frame_on(vae: VideoVAE):
    clip, raw = pixels(9), latents(3)
    clip[0, 0, 5, 0, 0] = raw[0, 0, 1, 0, 0] = float("nan")
    latent, decoded = vae.encode(clip), vae.decode_raw(raw)
    assert latent[:, :, :2].isfinite().all()
    assert latent[:, :, 2].isnan().any()
    assert decoded[:, :, :1].isfinite().all()
    assert decoded[:, :, 1:5].isnan().any()


@pytest.mark.parametrize("chunk", [0, -1])
def test_a_chunk_holds_at_least_one_latent_frame(vae: VideoVAE, chunk: int):
    calls = [
        lambda: vae.encode(pixels(5), chunk),
        lambda: list(vae.encode_chunks([pixels(5)], chunk)),
        lambda: vae.decode(latents(2), chunk),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="at least 1"):
            call()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temporal_down": (True, True)}, "one flag per level but the last, 3, got 2"),
        ({"mean": (0.0,)}, "mean needs one value per latent channel, 4, got 1"),
        ({"std": (1.0, 1.0, 1.0, 0.0)}, "std must be positive"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        replace(NARROW, **change)


def test_unknown_fields_and_impossible_widths_are_refused():
    with pytest.raises(ValueError, match="no field width"):
        VideoVAEConfig.from_json(NARROW.to_json() | {"width": 3})
    with pytest.raises(ValueError, match="cannot average"):
        VideoVAE(replace(NARROW, multipliers=(1, 2, 2, 4)))


# --- fewer products


@torch.no_grad()
@pytest.mark.parametrize("frames", [2, 4])
def test_two_frames_at_once_are_the_convolution(frames: int):
    conv = nn.Conv3d(6, 5, 3, padding=(0, 1, 1))
    x = torch.randn(2, 6, frames + 2, 5, 7)
    torch.testing.assert_close(two_frames_at_once(conv, x), conv(x), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_doubled_picture_is_convolved_without_being_made():
    layer = Upsample(6, temporal=False)
    x = torch.randn(2, 6, 5, 7)
    torch.testing.assert_close(doubled(layer.resample[1], x), layer.resample(x), rtol=1e-5, atol=1e-6)


def test_fewer_products_are_for_wide_layers_of_large_pictures_without_gradients():
    wide, narrow_one = nn.Conv3d(128, 1, 3), nn.Conv3d(4, 1, 3)
    x = torch.zeros(1, 128, 4, 32, 32)
    assert not pays(wide, x)
    with torch.no_grad():
        assert pays(wide, x)
        assert not pays(wide, x.bfloat16())
        assert not pays(wide, x[..., :8])
        assert not pays(narrow_one, x[:, :4])


@torch.no_grad()
def test_a_wide_decoder_makes_the_same_pictures_with_fewer_products(monkeypatch: pytest.MonkeyPatch):
    model = narrow(replace(NARROW, decoder_width=128, multipliers=(1, 1, 1, 1))).requires_grad_(False)
    latent = torch.randn(1, 4, 2, 2, 4)
    fewer = model.decode_raw(latent)
    monkeypatch.setattr("unitalk_core.models.video_vae.pays", lambda *_: False)
    torch.testing.assert_close(fewer, model.decode_raw(latent), rtol=1e-4, atol=1e-5)
