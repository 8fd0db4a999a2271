"""The benchmark of a step computes what it says."""

from __future__ import annotations

import pytest
import torch

from benchmarks.step import HEAD_WIDTH, inputs, operations, plain_ovi, random_model, sized
from unitalk_core.config import OVI_720, UNITALK

WIDTH = 3 * HEAD_WIDTH


@torch.no_grad()
def test_ovi_from_its_formulas_is_our_fusion_model():
    torch.manual_seed(0)
    model = random_model(sized(OVI_720, 1, WIDTH), torch.device("cpu"), torch.float32)
    given = inputs(model.config, (64, 32), 5, torch.empty(0))
    ours, plain = model(*given), plain_ovi(model, *given)
    ours.map(lambda a, b: torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4), plain)


@pytest.mark.parametrize("config", [UNITALK, OVI_720])
def test_operations_grow_with_depth_by_those_of_a_block(config):
    one, two, three = (operations(sized(config, depth, WIDTH), (64, 64), 9) for depth in (1, 2, 3))
    assert two - one == three - two > 0


def test_operations_of_a_block_are_those_of_the_formula():
    one, two = (operations(sized(UNITALK, depth, WIDTH), (64, 64), 9) for depth in (1, 2))
    shape = UNITALK.format.latent_shape(9, 64, 64)
    tokens = [shape.video[2] * 2 * 2, shape.audio[2]]
    text, voice, hidden = 512, 1, WIDTH * 14 // 3
    linear = sum(n * (6 * WIDTH + 2 * hidden) + (text + voice) * 2 * WIDTH for n in tokens) * WIDTH
    attention = 2 * WIDTH * (sum(tokens) ** 2 + sum(tokens) * (text + voice))
    assert two - one == 2 * (linear + attention)
