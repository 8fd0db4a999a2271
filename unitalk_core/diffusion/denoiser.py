"""What a sampler calls: the network, its conditions and the kept parts of a clip as `denoise(x, sigma)`.

b batch · c channels · f latent frames · h, w latent rows, columns · n audio latents or tokens
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from einops import reduce
from torch import Tensor

from ..av import AV
from ..models.voices import Voices
from .cache import Reuse
from .guidance import FULL, UNGUIDED, Guidance, Latents, Without
from .passes import Pass, run_all
from .path import mix, velocity_to_denoised
from .schedules import sigma_at, timesteps


@dataclass(frozen=True)
class Conditioning:
    """context: text features (b, len, text_dim); reference: voice latents (b, len, reference_dim), several
    with their times, or None."""

    context: Latents
    reference: AV[Tensor | Voices | None] | None = None


@dataclass(frozen=True)
class Denoiser:
    """Velocity model -> denoised, with guidance and with parts of the clip kept.

    model: a JointDiT, or anything called like it. denoise_mask: 1 = generate, 0 = keep, (b, 1, f, h, w)
    and (b, 1, n), any axis may be 1; None = generate all. Kept parts of `clean` replace the input;
    their tokens get timestep mask * t. The result is not masked: at the end the caller calls `keep`.
    A stream that is kept whole does not see the other one (`effective_coupling`).
    integer_timesteps: cut the timestep off after the point, as the UniPC and DPM++ of Wan and Ovi do.
    shift: of the schedule, which turns the start and end of guidance into noise levels.
    patch: latents per token (f, h, w). dtype: what the network computes in; None = that of x.
    reuse: the memory of a step cache; one for each run. together: how many passes may share a batch.
    """

    model: Callable[..., Latents]
    cond: Conditioning
    uncond: Conditioning | None = None
    guidance: Guidance = UNGUIDED
    clean: Latents | None = None
    denoise_mask: Latents | None = None
    couple: tuple[bool, bool] = (True, True)
    integer_timesteps: bool = False
    shift: float = 1.0
    patch: tuple[int, int, int] = (1, 2, 2)
    dtype: torch.dtype | None = None
    reuse: Reuse | None = None
    together: int = 1

    def __post_init__(self) -> None:
        if self.denoise_mask is not None and self.clean is None:
            raise ValueError("denoise_mask keeps parts of a clip, but clean is None")
        for term in self.guidance.terms:
            if term.counts:
                self._check(term.without)

    def __call__(self, x: Latents, sigma: Tensor) -> Latents:
        """The data that `x` is on the way to at noise level `sigma`."""
        x = self.keep(x)
        guidance = self.guidance.at(sigma.item(), partial(sigma_at, shift=self.shift))
        velocity = self._velocities(x, sigma, guidance.passes())

        def denoised(some: Latents) -> Latents:
            return x.map(lambda one, v: velocity_to_denoised(one, v, sigma.to(one)), some)

        guided = denoised(guidance.combine(velocity))
        return guidance.shape(denoised(velocity[FULL]), guided) if guidance.shapes else guided

    def keep(self, x: Latents) -> Latents:
        """`x` with the kept parts of the clip in its place."""
        if self.denoise_mask is None:
            return x
        return x.map(_kept, self.clean, self.denoise_mask)

    def _check(self, without: Without) -> None:
        """ValueError if there is nothing that this pass could leave out."""
        if without.text and self.uncond is None:
            raise ValueError("guidance by the text needs uncond, got None")
        if without.voice and not (self.cond.reference and self.cond.reference.present()):
            raise ValueError("guidance by the voice needs a voice; give one, or leave it out")
        if without.image and (self.denoise_mask is None or self.denoise_mask.video is None):
            raise ValueError("guidance by the image needs a picture that is kept; give one, or leave it out")
        if without.coupling and not any(self._coupling):
            raise ValueError("guidance by the coupling needs streams that see each other; couple is off")

    @cached_property
    def _coupling(self) -> tuple[bool, bool]:
        return effective_coupling(self.couple, self.denoise_mask)

    def _velocities(self, x: Latents, sigma: Tensor, passes: list[Without]) -> dict[Without, Latents]:
        run = partial(self._run, x, sigma)
        return run(passes) if self.reuse is None else self.reuse.velocities(x, sigma.item(), passes, run)

    def _run(self, x: Latents, sigma: Tensor, passes: Collection[Without]) -> dict[Without, Latents]:
        given = [self._pass(x, sigma, without) for without in passes]
        found = run_all(self.model, given, self.together)
        return {
            without: velocity.map(lambda v, one: v.to(one.dtype), x)
            for without, velocity in zip(passes, found, strict=True)
        }

    def _pass(self, x: Latents, sigma: Tensor, without: Without) -> Pass:
        given = self.uncond if without.text else self.cond
        mask = self.denoise_mask
        if without.image:
            x, mask = AV(noised(x.video, mask.video, sigma), x.audio), AV(None, mask.audio)
        cast = x.map(lambda one: one if self.dtype is None else one.to(self.dtype))
        context = cast.map(lambda one, rows: rows.to(one), given.context)
        heard = given.reference
        if heard is not None:
            heard = cast.map(lambda one, rows: None if rows is None else rows.to(one), heard)
        return Pass(
            latent=cast,
            timestep=self._timestep(x, sigma, mask),
            context=context,
            reference=None if without.voice else heard,
            couple=(False, False) if without.coupling else self._coupling,
            blocks=without.blocks,
            heard=heard,
        )

    def _timestep(self, x: Latents, sigma: Tensor, mask: Latents | None) -> Latents:
        value = timesteps(sigma, self.integer_timesteps).float()
        whole = x.map(lambda one: value.to(one.device).expand(len(one)))
        if mask is None:
            return whole
        return x.map(
            lambda one, part, t: t if part is None else token_timesteps(part, t, one.shape, self.patch),
            mask,
            whole,
        )


def noised(x: Tensor, mask: Tensor, sigma: Tensor) -> Tensor:
    """`x` with its kept part at noise level `sigma`, as if it were being made; the same noise each time."""
    noise = torch.randn(x.shape, generator=torch.Generator("cpu").manual_seed(0)).to(x)
    return _kept(x, mix(x, noise, sigma.to(x)), mask)


def effective_coupling(couple: tuple[bool, bool], mask: Latents | None) -> tuple[bool, bool]:
    """`couple` without what a stream that is kept whole would see of the other (paper: TV2A)."""
    if mask is None:
        return couple
    made = mask.map(lambda one: bool(one.any()))
    audio_to_video, video_to_audio = couple
    return audio_to_video and made.video is not False, video_to_audio and made.audio is not False


def token_timesteps(
    mask: Tensor, timestep: Tensor, latent: torch.Size, patch: tuple[int, int, int] = (1, 2, 2)
) -> Tensor:
    """(b, n): mask * timestep for each token of a latent (b, c, f, h, w) or (b, c, n); timestep (b,).

    A token is generated as far as the most generated latent in its patch.
    """
    mask = mask[:, :1].to(timestep).expand(latent[0], 1, *latent[2:])
    if mask.ndim == 3:
        return mask[:, 0] * timestep[:, None]
    f, h, w = patch
    tokens = reduce(mask, "b 1 (f t) (h p) (w q) -> b (f h w)", "max", t=f, p=h, q=w)
    return tokens * timestep[:, None]


def _kept(x: Tensor, clean: Tensor | None, mask: Tensor | None) -> Tensor:
    if mask is None:
        return x
    mask = mask.to(x)
    return mask * x + (1 - mask) * clean.to(x)
