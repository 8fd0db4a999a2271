"""Samplers: `sample_*(denoise, x, sigmas, on_step, **options)` walk from noise to data. Pure functions.

denoise(x, sigma) -> the data that x is on the way to, same shapes; sigma is a float32 tensor without axes.
on_step(i, denoised) is called after step i; whatever it raises ends the sampling.
x: an AV pair of latents; an absent stream is None throughout. sigmas: (steps + 1,), see schedules.py.

The multistep solvers work in lambda = ln(alpha) - ln(sigma), alpha = 1 - sigma; architecture.md f.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ..av import AV

Latents = AV[Tensor | None]
Denoise = Callable[[Latents, Tensor], Latents]
OnStep = Callable[[int, Latents], None]
Terms = list[tuple[float, Latents]]
FEW_STEPS = 15  # below this many steps DPM++ lowers its order before the end


def sample_euler(denoise: Denoise, x: Latents, sigmas: Tensor, on_step: OnStep | None = None) -> Latents:
    """Along the straight path: x <- denoised + (x - denoised) * next / now."""
    for i, (now, following) in enumerate(pairwise(_checked(sigmas))):
        denoised = denoise(x, now)
        ratio = (following / now).item()
        x = _sum((ratio, x), (1 - ratio, denoised))
        _report(on_step, i, denoised)
    return x


def sample_heun(denoise: Denoise, x: Latents, sigmas: Tensor, on_step: OnStep | None = None) -> Latents:
    """Euler, then again with the mean of the slopes at both ends (Karras et al. 2022); Euler into sigma 0."""
    for i, (now, following) in enumerate(pairwise(_checked(sigmas))):
        denoised = denoise(x, now)
        ratio = (following / now).item()
        ahead = _sum((ratio, x), (1 - ratio, denoised))
        if following > 0:
            half = (following - now).item() / 2
            here, there = half / now.item(), half / following.item()
            then = denoise(ahead, following)
            x = _sum((1 + here, x), (-here, denoised), (there, ahead), (-there, then))
        else:
            x = ahead
        _report(on_step, i, denoised)
    return x


def sample_unipc(
    denoise: Denoise,
    x: Latents,
    sigmas: Tensor,
    on_step: OnStep | None = None,
    *,
    order: int = 2,
    solver_type: Literal["bh1", "bh2"] = "bh2",
    lower_order_final: bool = True,
    disable_corrector: Collection[int] = (),
) -> Latents:
    """UniPC (Zhao et al. 2023): each estimate first corrects the step that led to it, then predicts the next.

    disable_corrector: numbers of the steps whose result stays as predicted. Into sigma 0 the order is 1.
    """
    _check_option("order", order, (1, 2, 3))
    _check_option("solver_type", solver_type, ("bh1", "bh2"))
    sigmas = _checked(sigmas)
    points = [Point.at(sigma) for sigma in sigmas.tolist()]
    steps, known, base, used = len(points) - 1, [], x, 1
    for i in range(steps):
        new = Estimate(points[i], denoise(x, sigmas[i]))
        if i > 0 and i - 1 not in disable_corrector:
            x = _unipc_correct(base, known[-used:], new, solver_type)
        known, base = [*known, new][-order:], x
        used = min(len(known), steps - i if lower_order_final else order)
        x = _unipc_predict(base, known[-used:], points[i + 1], solver_type)
        _report(on_step, i, new.denoised)
    return x


def sample_dpmpp_2m(
    denoise: Denoise,
    x: Latents,
    sigmas: Tensor,
    on_step: OnStep | None = None,
    *,
    order: int = 2,
    solver_type: Literal["midpoint", "heun"] = "midpoint",
    lower_order_final: bool = True,
    bend: float = 1.0,
) -> Latents:
    """DPM-Solver++ multistep (Lu et al. 2022) of order 2, or as told; 1 at the start and into sigma 0.

    bend: factor of the term that order 3 adds. The published code has 1, half of what the expansion asks for,
    and so converges with order 2.
    """
    _check_option("order", order, (1, 2, 3))
    _check_option("solver_type", solver_type, ("midpoint", "heun"))
    sigmas = _checked(sigmas)
    points = [Point.at(sigma) for sigma in sigmas.tolist()]
    steps, known = len(points) - 1, []
    for i in range(steps):
        known = [*known, Estimate(points[i], denoise(x, sigmas[i]))][-order:]
        few = lower_order_final and steps < FEW_STEPS
        used = min(len(known), steps - i if few else order)
        x = _dpmpp_step(x, known[-used:], points[i + 1], solver_type, bend)
        _report(on_step, i, known[-1].denoised)
    return x


sample_dpmpp_3m = partial(sample_dpmpp_2m, order=3, bend=2.0)

Sampler = Callable[..., Latents]
SAMPLERS: dict[str, Sampler] = {
    "unipc": sample_unipc,
    "dpmpp_2m": sample_dpmpp_2m,
    "euler": sample_euler,
    "heun": sample_heun,
    "dpmpp_3m": sample_dpmpp_3m,
}
WHOLE_TIMESTEPS = {"unipc", "dpmpp_2m", "dpmpp_3m"}  # the references of these hand the network integers


@dataclass(frozen=True)
class Point:
    """A noise level of the schedule and its coordinates."""

    sigma: float
    alpha: float
    lam: float  # ln(alpha / sigma): -inf at sigma 1, inf at sigma 0

    @classmethod
    def at(cls, sigma: float) -> Point:
        alpha = 1 - sigma
        if sigma == 0:
            return cls(sigma, alpha, math.inf)
        return cls(sigma, alpha, math.log(alpha) - math.log(sigma) if alpha > 0 else -math.inf)


@dataclass(frozen=True)
class Estimate:
    """What the model took for the data at one noise level."""

    point: Point
    denoised: Latents


def _unipc_predict(base: Latents, known: list[Estimate], target: Point, solver_type: str) -> Latents:
    """From the newest of `known` to `target`; the older ones give the slope."""
    *older, last = known
    return _unipc_move(base, last, target, _slopes(older, last, target), solver_type)


def _unipc_correct(base: Latents, known: list[Estimate], new: Estimate, solver_type: str) -> Latents:
    """The same step once more, now that the estimate at its end is known."""
    *older, last = known
    slopes = [*_slopes(older, last, new.point), (1.0, new.denoised)]
    return _unipc_move(base, last, new.point, slopes, solver_type)


def _unipc_move(base: Latents, last: Estimate, target: Point, slopes: Terms, solver_type: str) -> Latents:
    """(target / now) base - alpha phi m - alpha B sum_k rho_k (m_k - m) / r_k, with phi = expm1(-h)."""
    h = target.lam - last.point.lam if target != last.point else 0.0
    phi = math.expm1(-h)
    scale = -h if solver_type == "bh1" and math.isfinite(h) else phi
    terms = [(target.sigma / last.point.sigma, base), (-target.alpha * phi, last.denoised)]
    weights = _unipc_weights([r for r, _ in slopes], h, scale)
    for rho, (r, denoised) in zip(weights, slopes, strict=True):
        share = target.alpha * scale * rho / r
        terms += [(-share, denoised), (share, last.denoised)]
    return _sum(*terms)


def _slopes(older: list[Estimate], last: Estimate, target: Point) -> Terms:
    """(r_k, m_k), newest first. A step that is endless in lambda (into 0, out of 1) or empty has no slope."""
    h = target.lam - last.point.lam if target != last.point else 0.0
    if not math.isfinite(h) or h == 0:
        return []
    ratios = [((one.point.lam - last.point.lam) / h, one.denoised) for one in reversed(older)]
    return [(r, denoised) for r, denoised in ratios if math.isfinite(r) and r != 0]


def _unipc_weights(ratios: list[float], h: float, scale: float) -> list[float]:
    """rho: sum_k r_k^(j-1) rho_k = g_j j! / B; g_1 = phi/hh - 1, g_(j+1) = g_j/hh - 1/(j+1)!, hh = -h."""
    if len(ratios) < 2:
        return [0.5] * len(ratios)
    hh = -h
    powers = [[r**j for r in ratios] for j in range(len(ratios))]
    sides, g = [], math.expm1(hh) / hh - 1
    for j in range(1, len(ratios) + 1):
        sides.append(g * math.factorial(j) / scale)
        g = g / hh - 1 / math.factorial(j + 1)
    system, right = torch.tensor(powers, dtype=torch.float64), torch.tensor(sides, dtype=torch.float64)
    return torch.linalg.solve(system, right).tolist()


def _dpmpp_step(
    x: Latents, known: list[Estimate], target: Point, solver_type: str, by_bend: float
) -> Latents:
    """Exponential integrator over one step, with the slope and the bend of up to three estimates."""
    last = known[-1].point
    h = target.lam - last.lam if target != last else 0.0
    gone = math.expm1(-h)
    terms = [(target.sigma / last.sigma, x), (-target.alpha * gone, known[-1].denoised)]
    spans = [b.point.lam - a.point.lam for a, b in pairwise(known)]
    if spans and all(spans) and h and math.isfinite(h):
        slope, bend = _differences(known, [span / h for span in spans])
        midpoint = solver_type == "midpoint" and len(known) == 2
        by_slope = -gone / 2 if midpoint else gone / h + 1
        by_bend *= 0.5 - (gone + h) / h**2
        terms += [(target.alpha * by_slope * weight, one) for weight, one in slope]
        terms += [(target.alpha * by_bend * weight, one) for weight, one in bend]
    return _sum(*terms)


def _differences(known: list[Estimate], spans: list[float]) -> tuple[Terms, Terms]:
    """First and second divided differences in lambda, in units of the step ahead; a span may be endless."""
    last, before, *first = (one.denoised for one in reversed(known))
    near = 1 / spans[-1]
    if not first:
        return [(near, last), (-near, before)], []
    far, both = 1 / spans[-2], spans[-1] + spans[-2]
    share = spans[-1] / both
    slope = [((1 + share) * near, last), (-(1 + share) * near - share * far, before), (share * far, first[0])]
    bend = [(near / both, last), (-(near + far) / both, before), (far / both, first[0])]
    return slope, bend


def _sum(*terms: tuple[float, Latents]) -> Latents:
    """The weighted sum of AV pairs."""
    weights = [weight for weight, _ in terms]
    first, *rest = (one for _, one in terms)

    def add(*streams: Tensor) -> Tensor:
        return sum(weight * one for weight, one in zip(weights, streams, strict=True))

    return first.map(add, *rest)


def _checked(sigmas: Tensor) -> Tensor:
    """`sigmas` as float32 on the CPU; ValueError unless they fall within 1..0."""
    sigmas = sigmas.detach().float().cpu()
    falling = sigmas.ndim == 1 and len(sigmas) > 1 and bool((sigmas.diff() <= 0).all())
    if not falling or sigmas[0] > 1 or sigmas[-1] < 0 or sigmas[-2] == 0:
        shown = ", ".join(f"{one:.4g}" for one in sigmas.flatten().tolist()[:6])
        raise ValueError(f"sigmas must fall from at most 1 to 0 in one or more steps, got {shown}")
    return sigmas


def _check_option(name: str, value: object, choices: tuple) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, got {value}")


def _report(on_step: OnStep | None, i: int, denoised: Latents) -> None:
    if on_step is not None:
        on_step(i, denoised)
