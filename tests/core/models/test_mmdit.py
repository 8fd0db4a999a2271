"""What must hold for the joint transformer without any reference weights."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from unitalk_core.av import AV
from unitalk_core.config import OVI_720, TINY, UNITALK, WAN
from unitalk_core.models import attention
from unitalk_core.models.attention import QKV, joint_attention, sdpa, split_heads
from unitalk_core.models.coupling import Joint
from unitalk_core.models.layers import CrossAttention, FeedForward, Timesteps, turned_norm
from unitalk_core.models.mmdit import Hooks, JointDiT, forward_block, initialise
from unitalk_core.models.rope import rotate, rotation
from unitalk_core.models.stream import Stream

SMALL = replace(
    TINY,
    couple_window=None,
    streams=TINY.streams.map(
        lambda stream: replace(stream, width=48, heads=2, depth=2, ffn_width=64, text_dim=16, text_len=12)
    ),
)
SMALL = replace(
    SMALL,
    streams=AV(replace(SMALL.streams.video, reference="linear", reference_dim=20), SMALL.streams.audio),
)


def randomised(config=SMALL, seed: int = 0) -> JointDiT:
    """Weights without the zeros of a fresh model, so that every path counts."""
    model = JointDiT(config).eval()
    initialise(model, seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def inputs(frames: int = 3, latents: int = 14, batch: int = 2, seed: int = 1) -> tuple[AV, AV, AV, AV]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    timestep = torch.tensor([637.0, 211.0])[:batch]
    context = draw(batch, 9, 16)
    reference = draw(batch, 6, 20)
    return (
        AV(draw(batch, 48, frames, 4, 4), draw(batch, 20, latents)),
        AV(timestep, timestep),
        AV(context, context.flip(1)),
        AV(reference, reference),
    )


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def test_dubbing_leaves_the_picture_as_the_video_stream_alone_makes_it():
    model, (latent, timestep, context, reference) = randomised(), inputs()
    joint = model(latent, timestep, context, reference, couple=(False, True))
    alone = model(AV(latent.video, None), timestep, context, reference)
    torch.testing.assert_close(joint.video, alone.video)
    assert not torch.allclose(joint.audio, model(AV(None, latent.audio), timestep, context, reference).audio)


def test_uncoupled_streams_are_two_models():
    model, (latent, timestep, context, reference) = randomised(), inputs()
    joint = model(latent, timestep, context, reference, couple=(False, False))
    torch.testing.assert_close(joint.video, model(AV(latent.video, None), timestep, context, reference).video)
    torch.testing.assert_close(joint.audio, model(AV(None, latent.audio), timestep, context, reference).audio)


@pytest.mark.parametrize("couple", [(True, True), (True, False), (False, True)])
def test_each_direction_lets_exactly_one_stream_hear_the_other(couple):
    model, (latent, timestep, context, reference) = randomised(), inputs()
    out = model(latent, timestep, context, reference, couple=couple)
    other_sound = model(AV(latent.video, -latent.audio), timestep, context, reference, couple=couple)
    other_picture = model(AV(-latent.video, latent.audio), timestep, context, reference, couple=couple)
    assert torch.equal(out.video, other_sound.video) is not couple[0]
    assert torch.equal(out.audio, other_picture.audio) is not couple[1]


def test_the_order_of_the_streams_in_the_attention_changes_nothing():
    def heads(tokens: int) -> QKV:
        return QKV(*(torch.randn(2, 3, tokens, 8) for _ in range(3)))

    video, audio = heads(7), heads(5)
    one = joint_attention(AV(video, audio), (True, True), None, sdpa)
    other = joint_attention(AV(audio, video), (True, True), None, sdpa)
    torch.testing.assert_close(one.video, other.audio)
    torch.testing.assert_close(one.audio, other.video)


def test_an_untrained_reference_is_not_heard_and_a_trained_one_is():
    model, (latent, timestep, context, reference) = randomised(), inputs()
    silent = JointDiT(SMALL).eval()
    silent.load_state_dict(model.state_dict())
    for module in silent.modules():
        if isinstance(module, CrossAttention):
            module.v_ref.weight.zero_()
            module.v_ref.bias.zero_()
    heard, other = (model(latent, timestep, context, r) for r in (reference, reference.map(torch.neg)))
    assert not torch.allclose(heard.audio, other.audio)
    same = [silent(latent, timestep, context, r) for r in (reference, reference.map(torch.neg), None)]
    assert torch.equal(same[0].audio, same[1].audio)
    torch.testing.assert_close(same[0].video, same[2].video)


def test_a_fresh_model_predicts_nothing_and_has_a_silent_reference():
    model = JointDiT(SMALL)
    initialise(model, 0)
    latent, timestep, context, reference = inputs()
    assert not any(part.any() for part in model(latent, timestep, context, reference).present())
    assert not model.video_model.blocks[0].cross_attn.v_ref.weight.any()
    assert not model.audio_model.blocks[1].cross_attn.v_ref.weight.any()


def test_a_fresh_sound_input_is_linear_and_leaves_room_for_conditions():
    model = JointDiT(replace(TINY, streams=TINY.streams.map(lambda stream: replace(stream, depth=1))))
    initialise(model, 0)
    tokens = model.audio_model.patch_embedding
    latent = torch.randn(2, 20, 40, generator=torch.Generator().manual_seed(0))
    once, twice = tokens(latent), tokens(2 * latent)
    assert (twice - 2 * once).norm() < 0.2 * twice.norm()
    assert 0.2 < once.square().mean().sqrt() < 1


def test_no_reference_is_the_same_as_zeros_of_any_length():
    model, (latent, timestep, context, reference) = randomised(), inputs()
    none = model(latent, timestep, context, None)
    zeros = model(latent, timestep, context, reference.map(torch.zeros_like))
    torch.testing.assert_close(none.video, zeros.video)
    torch.testing.assert_close(none.audio, zeros.audio)


def test_padding_beyond_the_lengths_is_not_seen():
    model, (latent, timestep, context, reference) = randomised(), inputs()
    out = model(latent, timestep, context, reference)
    padded = AV(
        torch.cat([latent.video, torch.randn(2, 48, 2, 4, 4)], dim=2),
        torch.cat([latent.audio, torch.zeros(2, 20, 5)], dim=2),
    )
    lengths = AV(torch.tensor([3, 3]), torch.tensor([14, 14]))
    longer = model(padded, timestep, context, reference, lengths=lengths)
    torch.testing.assert_close(longer.video[:, :, :3], out.video, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(longer.audio[:, :, :14], out.audio, rtol=1e-4, atol=1e-5)


def test_one_timestep_a_token_equals_one_a_sample_and_its_distinct_values():
    model, (latent, timestep, context, reference) = randomised(), inputs()
    dense = AV(timestep.video[:, None].expand(2, 12), timestep.audio[:, None].expand(2, 14))
    index = AV(torch.tensor([[0], [1]]).expand(2, 12), torch.tensor([[0], [1]]).expand(2, 14))
    distinct = index.map(lambda where: Timesteps(timestep.video, where))
    out = model(latent, timestep, context, reference)
    for other in (dense, distinct):
        again = model(latent, other, context, reference)
        torch.testing.assert_close(again.video, out.video)
        torch.testing.assert_close(again.audio, out.audio)


def test_modulation_is_computed_once_per_distinct_timestep():
    model, (latent, timestep, context, reference) = randomised(), inputs()
    rows = []
    model.video_model.time_projection.register_forward_hook(lambda _m, _i, out: rows.append(len(out)))
    clean_first = timestep.video[:, None].repeat(1, 12)
    clean_first[:, :4] = 0
    model(latent, AV(clean_first, timestep.audio), context, reference)
    assert rows == [3]


def test_a_wide_window_is_full_attention_and_a_narrow_one_is_local():
    model, (latent, timestep, context, reference) = randomised(), inputs(frames=5, latents=24)
    full = model(latent, timestep, context, reference)
    model.config = replace(SMALL, couple_window=60.0)
    wide = model(latent, timestep, context, reference)
    torch.testing.assert_close(wide.video, full.video)
    torch.testing.assert_close(wide.audio, full.audio)
    model.config = replace(SMALL, couple_window=0.1)
    assert not torch.allclose(model(latent, timestep, context, reference).video, full.video)


def test_a_window_hides_what_is_far_in_time():
    video = QKV(*(torch.randn(1, 1, 8, 4) for _ in range(3)))
    audio = QKV(*(torch.randn(1, 1, 6, 4) for _ in range(3)))
    times = AV(torch.arange(4.0), torch.arange(6.0) * 0.5)
    bands = attention.bands_within(times.video, times.audio, 2, 0.5)
    out = joint_attention(AV(video, audio), (True, True), bands, sdpa)
    late = QKV(audio.q, audio.k, torch.cat([audio.v[:, :, :4], -audio.v[:, :, 4:]], dim=2))
    changed = joint_attention(AV(video, late), (True, True), bands, sdpa)
    same = [torch.equal(out.video[:, :, i], changed.video[:, :, i]) for i in range(8)]
    assert same == [True] * 4 + [False] * 4  # frames 2 and 3 are within 0.5 of the sound at 2.0 and 2.5


@pytest.mark.parametrize("couple", [(True, True), (False, True), (True, False), (False, False)])
@pytest.mark.parametrize("window", [None, 0.2])
def test_no_attention_is_given_a_mask(couple, window):
    masks = []

    def watched(q, k, v, mask=None):
        masks.append(mask)
        return sdpa(q, k, v, mask)

    model, (latent, timestep, context, reference) = randomised(), inputs()
    model.config = replace(SMALL, couple_window=window)
    model(latent, timestep, context, reference, couple=couple, hooks=Hooks(attention=watched))
    assert masks and all(mask is None for mask in masks)


def test_skipped_blocks_and_bypassed_attention_change_the_result():
    model, (latent, timestep, context, reference) = randomised(), inputs()
    plain = model(latent, timestep, context, reference).audio
    skipped = model(latent, timestep, context, reference, skip_blocks=(1,)).audio
    bypassed = model(latent, timestep, context, reference, hooks=Hooks(value_blocks=(1,))).audio
    assert not torch.allclose(plain, skipped)
    assert not torch.allclose(plain, bypassed)
    assert not torch.allclose(skipped, bypassed)


def test_samples_of_a_batch_do_not_see_each_other():
    model, (latent, timestep, context, reference) = randomised(), inputs()
    both = model(latent, timestep, context, reference)
    first = [part.map(lambda x: x[:1]) for part in (latent, timestep, context, reference)]
    torch.testing.assert_close(model(*first).audio, both.audio[:1], rtol=1e-4, atol=1e-5)


def test_full_size_has_the_published_number_of_parameters():
    def count(config) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in JointDiT(config).parameters())

    plain = UNITALK.streams.map(lambda stream: replace(stream, reference="none", reference_dim=0))
    assert count(WAN) == 4_999_787_712
    assert count(OVI_720) == 11_660_753_108
    assert count(replace(UNITALK, streams=plain)) == 9_998_641_384
    assert count(UNITALK) == 9_998_641_384 + 1_133_015_040 + 2 * (40 + 1) * 3072


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"latent": AV(torch.zeros(1, 48, 2, 3, 4), None)}, "does not split into patches"),
        ({"latent": AV(torch.zeros(1, 16, 2, 4, 4), None)}, "has 16 channels, this stream takes 48"),
        ({"latent": AV(None, None)}, "both latents are None"),
        ({"context": AV(torch.zeros(1, 40, 16), None)}, "text has 40 tokens, this model takes at most 12"),
        ({"timestep": AV(torch.zeros(1, 5), None)}, r"timestep must be \(1,\) or \(1, 8\)"),
    ],
)
def test_wrong_inputs_get_a_sentence(change, sentence):
    given = {
        "latent": AV(torch.zeros(1, 48, 2, 4, 4), None),
        "timestep": AV(torch.zeros(1), None),
        "context": AV(torch.zeros(1, 4, 16), None),
    } | change
    with pytest.raises(ValueError, match=sentence):
        randomised()(**given)


def test_a_latent_without_its_stream_gets_a_sentence():
    model = JointDiT(replace(SMALL, streams=AV(SMALL.streams.video, None)))
    latent, timestep, context, _ = inputs()
    with pytest.raises(ValueError, match="no audio stream"):
        model(latent, timestep, context)


def test_a_block_compiles_without_a_graph_break():
    """Traced and run as plain torch: what matters is that no line of it leaves the graph."""
    model, (latent, timestep, context, reference) = randomised(), inputs()
    state = model.streams.map(Stream.embed, latent, timestep, context, reference, AV(None, None))
    blocks = model.streams.map(lambda stream: stream.blocks[0])
    compiled = torch.compile(forward_block, fullgraph=True, backend="eager")
    made = compiled(blocks, Joint(), state)
    plain = forward_block(blocks, Joint(), state)
    made.map(lambda one, other: torch.testing.assert_close(one.tokens, other.tokens), plain)


@torch.no_grad()
def test_in_half_precision_the_ffn_rounds_once_less_than_layer_by_layer():
    torch.manual_seed(0)
    ffn, x = FeedForward(64, 256, nn), torch.randn(2, 40, 64)
    half, true = ffn.bfloat16(), x.bfloat16()
    wide, act, narrow = half
    apart = narrow(act(wide(true)))
    exact = copy.deepcopy(half).double()(true.double())
    errors = [(one - exact).norm() / exact.norm() for one in (half(true), apart)]
    assert errors[0] < 1.05 * errors[1] < 0.01


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_normalised_and_turned_at_once_is_one_after_the_other(dtype: torch.dtype, error: float):
    torch.manual_seed(0)
    norm, x = nn.RMSNorm(48, eps=1e-6).to(dtype), torch.randn(2, 5, 48).to(dtype)
    nn.init.normal_(norm.weight)
    turn = rotation(torch.randn(5, 8))
    plain = rotate(split_heads(norm(x), 3), turn)
    torch.testing.assert_close(turned_norm(norm, x, 3, turn), plain, rtol=error, atol=error)
