"""Linear layers whose weights take a byte each, and which may multiply in a byte too. They are frozen.

r rows, c columns of a weight
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

FLOAT8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FLOAT8).max  # 448
TINIEST = torch.finfo(torch.float32).tiny
SIDE = 16  # fast products want sides that are multiples of this

Model = TypeVar("Model", bound=nn.Module)
Float8 = Literal["held", "fast"]
"""Of a model: weights in float8 that are widened for each product; or its products in float8 too."""


def hold_in_float8(model: Model, how: Float8 = "held") -> Model:
    """Hold the frozen linear layers of all blocks in float8, in place: their children and hooks stay."""
    for layer in _layers(model):
        if not layer.weight.requires_grad:
            Float8Linear.take_over(layer)
            layer.fast = how == "fast"
    return model


def expect_float8(model: Model, how: Float8 = "held") -> Model:
    """Have a JointDiT on the meta device take the weights that `quantised.for_float8` gives."""
    for layer in _layers(model):
        weight = torch.empty_like(layer.weight, dtype=FLOAT8)
        Float8Linear.become(layer, weight, weight.new_empty(len(weight), dtype=torch.float32))
        layer.fast = how == "fast"
    return model


def check_fast(device: torch.device) -> None:
    """ValueError if products in float8 cannot be made there."""
    one = torch.ones(SIDE, SIDE, device=device, dtype=torch.bfloat16)
    try:
        _fast_product(one, one.to(FLOAT8), one[0].float())
    except (AttributeError, RuntimeError) as error:  # an older PyTorch, or a device without
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{device} cannot multiply in fp8 with PyTorch {torch.__version__} ({reason}); "
            "take fp8_e4m3fn, which only holds the weights so"
        ) from error


class Float8Linear(nn.Linear):
    """A frozen linear layer: `weight` in float8 (r, c), `weight_scale` (r,) in float32.

    Under these names `weights.quantised.dequantise` reads its state dict. Nothing in full precision outlives
    the forward or the backward call. fast: outside of training the input is rounded to float8 as well, each
    token by its own largest number.
    """

    weight_scale: Tensor
    fast = False

    @classmethod
    @torch.no_grad()
    def take_over(cls, layer: nn.Linear) -> None:
        """Round the weights of `layer`. The scales are powers of two: exact in every dtype."""
        weight = layer.weight.float()
        largest = weight.abs().amax(1).clamp(min=TINIEST)
        scale = (largest / LARGEST).log2().ceil().exp2()
        cls.become(layer, (weight / scale[:, None]).to(FLOAT8), scale)

    @classmethod
    def become(cls, layer: nn.Linear, weight: Tensor, scale: Tensor) -> None:
        layer.__class__ = cls
        layer.register_buffer("weight_scale", scale)
        layer.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        product = _fast_product if self._is_fast() else _Product.apply
        out = product(x, self.weight, self.weight_scale)
        return out if self.bias is None else out + self.bias.to(out.dtype)

    def _is_fast(self) -> bool:
        fits = not (self.in_features % SIDE or self.out_features % SIDE)
        return self.fast and fits and not torch.is_grad_enabled()


class _Product(torch.autograd.Function):
    """x (..., c), weight (r, c), scale (r,) -> (..., r). Only x has a gradient."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        return functional.linear(x, weight.to(x.dtype)) * scale.to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG004 - torch's signature
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        weight, scale = ctx.saved_tensors
        return (grad * scale.to(grad.dtype)) @ weight.to(grad.dtype), None, None


def _fast_product(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """The same with `x` in float8; the sums are made in float32 and rounded to bfloat16."""
    rows, by_row = x.flatten(0, -2), functional.ScalingType.RowWise
    own = rows.abs().amax(1, keepdim=True).float().clamp(min=TINIEST * LARGEST) / LARGEST
    out = functional.scaled_mm((rows / own).to(FLOAT8), weight.t(), own, by_row, scale[None], by_row)
    return out.to(x.dtype).unflatten(0, x.shape[:-1])


def _layers(model: nn.Module) -> list[nn.Linear]:
    """The plain linear layers of the blocks of a JointDiT."""
    blocks = (stream.blocks for stream in model.streams.present())
    return [layer for one in blocks for layer in one.modules() if type(layer) is nn.Linear]
