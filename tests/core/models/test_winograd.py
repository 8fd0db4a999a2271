"""A convolution with half the products is the same convolution."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unitalk_core.models.winograd import convolved, in_fours, pays


@pytest.mark.parametrize("kernel", [3, 4, 7, 11])
@pytest.mark.parametrize("dilation", [1, 3, 5])
def test_in_fours_a_convolution_of_any_length_kernel_and_dilation_is_the_same(kernel: int, dilation: int):
    torch.manual_seed(0)
    conv = nn.Conv1d(6, 5, kernel, padding=dilation * (kernel // 2), dilation=dilation).requires_grad_(False)
    for length in (1, 2, 7, 16, 61):
        x = torch.randn(2, 6, length)
        plain = conv(x)[..., :length]
        torch.testing.assert_close(in_fours(conv, x), plain, rtol=0, atol=2e-5)


@torch.no_grad()
def test_a_wide_layer_is_as_exact_as_a_plain_convolution_up_to_a_small_factor():
    torch.manual_seed(0)
    conv, x = nn.Conv1d(256, 200, 11, padding=25, dilation=5), torch.randn(1, 256, 520)
    true = conv.double()(x.double())
    conv.float()
    assert pays(conv, x)
    errors = [(one - true).norm() / true.norm() for one in (convolved(conv, x), conv(x))]
    assert errors[0] < 4 * errors[1] < 2e-6


def test_what_learns_is_narrow_short_or_half_precise_is_convolved_as_ever():
    conv, x = nn.Conv1d(192, 192, 7, padding=3), torch.zeros(1, 192, 600)
    assert not pays(conv, x)
    with torch.no_grad():
        assert pays(conv, x)
        assert not pays(conv, x[..., :100])
        assert not pays(conv.bfloat16(), x.bfloat16())
        assert not pays(nn.Conv1d(96, 96, 7), x[:, :96])
