"""Guiders as values: which passes a step needs, what they add up to, and the shape of what is added."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from unitalk_core.av import AV
from unitalk_core.diffusion.guidance import FULL, Guidance, Term, Without, cfg
from unitalk_core.diffusion.schedules import sigma_at

TEXT, VOICE, COUPLING = Without(text=True), Without(voice=True), Without(coupling=True)
EVEN = partial(sigma_at, shift=1.0)


def estimate(seed: int) -> AV:
    generator = torch.Generator().manual_seed(seed)
    return AV(
        torch.randn(2, 3, 2, 4, 4, generator=generator, dtype=torch.float64),
        torch.randn(2, 5, 7, generator=generator, dtype=torch.float64),
    )


ESTIMATES = {one: estimate(seed) for seed, one in enumerate([FULL, TEXT, VOICE, COUPLING])}


def test_one_term_is_classifier_free_guidance_bit_by_bit() -> None:
    made = cfg(AV(4.0, 3.0)).combine(ESTIMATES)
    full, without = ESTIMATES[FULL], ESTIMATES[TEXT]
    assert torch.equal(made.video, without.video + 4.0 * (full.video - without.video))
    assert torch.equal(made.audio, without.audio + 3.0 * (full.audio - without.audio))


def test_each_condition_has_a_strength_of_its_own_as_in_omnitalker() -> None:
    scales = {TEXT: 3.0, VOICE: 3.5, COUPLING: 1.5}
    made = Guidance(tuple(Term(one, AV(s, s)) for one, s in scales.items())).combine(ESTIMATES)
    alphas = {one: scale - 1 for one, scale in scales.items()}
    for name in ("video", "audio"):
        full = getattr(ESTIMATES[FULL], name)
        rule = (1 + sum(alphas.values())) * full
        rule = rule - sum(alpha * getattr(ESTIMATES[one], name) for one, alpha in alphas.items())
        torch.testing.assert_close(getattr(made, name), rule)


def test_the_order_of_the_terms_does_not_matter_and_other_guidance_is_built_on() -> None:
    text, voice = Term(TEXT, AV(4.0, 3.0)), Term(VOICE, AV(1.0, 2.0))
    both = Guidance((text, voice)).combine(ESTIMATES)
    turned = Guidance((voice, text)).combine(ESTIMATES)
    further = Guidance((voice,)).combine(ESTIMATES, guided=Guidance((text,)).combine(ESTIMATES))
    for one in (turned, further):
        torch.testing.assert_close(one.video, both.video)
        torch.testing.assert_close(one.audio, both.audio)


def test_a_pass_is_named_once_and_only_where_it_counts() -> None:
    guidance = Guidance(
        (
            Term(TEXT, AV(4.0, 3.0)),
            Term(COUPLING, AV(2.0, 1.0), 0.0, 0.5),
            Term(COUPLING, AV(1.0, 2.0), 0.25, 1.0),
            Term(VOICE, AV(1.0, 1.0)),
        )
    )
    assert guidance.at(0.9, EVEN).passes() == [FULL, TEXT, COUPLING]
    assert len(guidance.at(0.6, EVEN).terms) == 3 and len(guidance.at(0.6, EVEN).passes()) == 3
    assert str(guidance) == (
        "the full pass, without text, without coupling (0% to 50%), without coupling (25% to 100%)"
    )
    assert Guidance((Term(COUPLING, AV(2.0, 1.0), 0.0, 0.5),)).at(0.4, EVEN).passes() == [FULL]


def test_a_range_follows_the_shift_of_the_schedule() -> None:
    late = Guidance((Term(TEXT, AV(2.0, 2.0), 0.5, 1.0),))
    assert late.at(0.7, partial(sigma_at, shift=3.0)).terms  # half way is sigma 0.75
    assert not late.at(0.7, EVEN).terms


def test_an_absent_stream_stays_absent() -> None:
    alone = {one: AV(None, both.audio) for one, both in ESTIMATES.items()}
    shaped = Guidance((Term(TEXT, AV(2.0, 2.0)),), eta=0.5, limit=0.5, rescale=0.5)
    guided = shaped.combine(alone)
    assert guided.video is None and shaped.shape(alone[FULL], guided).video is None


def test_without_a_shape_nothing_is_touched() -> None:
    guided = cfg(AV(4.0, 4.0)).combine(ESTIMATES)
    assert cfg(AV(4.0, 4.0)).shape(ESTIMATES[FULL], guided) is guided


def test_projection_takes_away_what_goes_along_the_estimate() -> None:
    full, guided = ESTIMATES[FULL], cfg(AV(4.0, 4.0)).combine(ESTIMATES)
    shaped = Guidance(eta=0.0).shape(full, guided)
    along = ((shaped.video - full.video) * full.video).sum((1, 2, 3, 4))
    torch.testing.assert_close(along, torch.zeros_like(along), atol=1e-9, rtol=0)
    half = Guidance(eta=0.5).shape(full, guided)
    torch.testing.assert_close(half.video, (guided.video + shaped.video) / 2)


def test_the_limit_holds_for_each_clip_and_stream_and_leaves_what_is_smaller() -> None:
    full, guided = ESTIMATES[FULL], cfg(AV(8.0, 1.01)).combine(ESTIMATES)
    shaped = Guidance(limit=0.3).shape(full, guided)
    size = torch.linalg.vector_norm((shaped.video - full.video).flatten(1), dim=1)
    torch.testing.assert_close(size, 0.3 * torch.linalg.vector_norm(full.video.flatten(1), dim=1))
    torch.testing.assert_close(shaped.audio, guided.audio)


def test_rescaling_gives_the_spread_of_the_full_estimate_back() -> None:
    full, guided = ESTIMATES[FULL], cfg(AV(6.0, 6.0)).combine(ESTIMATES)
    shaped = Guidance(rescale=1.0).shape(full, guided)
    torch.testing.assert_close(shaped.audio.std((1, 2)), full.audio.std((1, 2)))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Term(FULL, AV(2.0, 2.0)), "leaves something out"),
        (lambda: Term(TEXT, AV(-1.0, 2.0)), "scale must be from 0 to 100, got -1"),
        (lambda: Term(TEXT, AV(2.0, float("nan"))), "got nan"),
        (lambda: Term(TEXT, AV(2.0, 2.0), 0.6, 0.4), "start before it ends, .* 0.6 to 0.4"),
        (lambda: Guidance(eta=2.0), "eta must be from 0 to 1"),
        (lambda: Guidance(limit=-1.0), "limit of guidance must be at least 0"),
        (lambda: Guidance(rescale=1.5), "rescale must be from 0 to 1"),
    ],
)
def test_impossible_guidance_gets_a_sentence(make, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()
