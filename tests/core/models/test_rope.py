"""The two ways to turn channel pairs agree."""

from __future__ import annotations

import torch

from unitalk_core.models.rope import _rotate_real, grid_positions, rope_angles, rotate, rotation


def test_complex_and_real_rotations_agree_in_any_memory_layout():
    turn = rotation(rope_angles(grid_positions(2, 3, 4), 16))
    x = torch.randn(2, 24, 3, 16).transpose(1, 2)
    expected = _rotate_real(x.unflatten(-1, (-1, 2)), turn)
    torch.testing.assert_close(rotate(x, turn), expected)
    torch.testing.assert_close(rotate(x.contiguous(), turn), expected)
    half = x.bfloat16()
    assert rotate(half, turn).dtype == torch.bfloat16
    torch.testing.assert_close(rotate(half, turn).float(), expected, rtol=0.02, atol=0.02)


def test_a_rotation_keeps_lengths_and_its_gradient_turns_back():
    turn = rotation(rope_angles(grid_positions(2, 3, 4), 16))
    x = torch.randn(1, 2, 24, 16, requires_grad=True)
    out = rotate(x, turn)
    torch.testing.assert_close(out.norm(dim=-1), x.norm(dim=-1))
    out.backward(rotate(x, turn).detach())
    torch.testing.assert_close(x.grad, x.detach())
