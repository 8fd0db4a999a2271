"""Train the small audio codec from waveforms: the mel VAE, then the vocoder. Plain loops, no discriminator.

Both need only waveforms (mono, at the mel's sample rate, at least one crop long) and a budget, and return the
averaged weights. The vocoder should be given the VAE, so that it learns from decoded mels too.

b batch · n samples · t frames · mels · k frequency bins
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.audio_vae import AUDIO_VAE_TINY, AudioVAE, AudioVAEConfig, project_weights
from ..models.mel import MEL_16K, Mel, MelConfig
from ..models.source import LOWEST
from ..models.stft import stft
from ..models.vocos import VOCOS_TINY, Track, Vocos, VocosConfig, start_from_mel
from ..pitch import HOP, WINDOW, pitch_track
from .loop import Budget, OnStep, fit

log = logging.getLogger("unitalk")

RESOLUTIONS = ((2048, 512), (1024, 256), (512, 128), (256, 64))  # n_fft, hop of the vocoder's losses
PHASE = (512, 128)
WEIGHTS = {"mel": 4.0, "magnitude": 1.0, "convergence": 0.5, "phase": 0.5, "pitch": 2.0, "voiced": 0.2}
EARLIER = 60  # samples: half a period of a usual voice, by which YIN looks still farther

Place = tuple[int, int]  # clip, and its sample where a crop starts


def train_mel_vae(
    waveforms: Sequence[Tensor],
    config: AudioVAEConfig = AUDIO_VAE_TINY,
    budget: Budget | None = None,
    *,
    mel: MelConfig = MEL_16K,
    kl: float = 1e-3,
    harmonics: float = 2.0,
    on_step: OnStep | None = None,
) -> AudioVAE:
    """Fit mel -> latent -> mel to `waveforms` (each (n,)). Its config then carries the latents' statistics.

    Loss: L1 of the standardised log-mel, `harmonics` times the same of the differences between neighbouring
    mels (without it the harmonics blur, and with them the pitch), and `kl` times the divergence from a unit
    normal, all per element. `on_step(i, losses)` sees "mel" in the mel's own log units.
    """
    budget = budget or Budget(minutes=3)  # a rate of 3e-3 collapses: rows of norm 1 move too far in a step
    crops = Crops(waveforms, mel.hop * budget.frames, budget.seed)
    to_mel, vae = Mel(mel), AudioVAE(config)
    _standardise(vae, to_mel(crops.draw(256)))
    _start(vae, budget.seed)
    vae.to(budget.device)

    def losses() -> dict[str, Tensor]:
        target = to_mel(crops.draw(budget.batch)).to(budget.device)
        with budget.precision():
            mean, log_variance = vae.posterior(target)
            noise = torch.randn(mean.shape, generator=crops.generator).to(mean.device)
            decoded = vae.decode_raw(mean + noise * (0.5 * log_variance).exp())
        mean, log_variance = mean.float(), log_variance.float()
        error = (decoded.float() - target) / vae.data_std
        blur = error.diff(dim=1).abs().mean()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return {
            "loss": error.abs().mean() + harmonics * blur + kl * divergence,
            "mel": (error * vae.data_std).abs().mean(),
            "blur": blur,
            "kl": divergence,
        }

    trained = fit(vae, budget, losses, on_step, after=project_weights)
    return _with_statistics(trained, to_mel(crops.draw(256)))


def train_vocos(
    waveforms: Sequence[Tensor],
    config: VocosConfig = VOCOS_TINY,
    budget: Budget | None = None,
    *,
    mel: MelConfig = MEL_16K,
    vae: AudioVAE | None = None,
    on_step: OnStep | None = None,
) -> Vocos:
    """Fit mel -> waveform to `waveforms` (each (n,)). With `vae`, half of each batch is decoded mels.

    Loss: L1 log-mel, multi-resolution STFT magnitudes, and phase differences along time and frequency; with a
    harmonic source also the pitch in octaves and whether there is one, against YIN, at whose pitch it speaks
    meanwhile.
    """
    budget = budget or Budget(minutes=6, learning_rate=2e-3)
    crops = Crops(waveforms, mel.hop * budget.frames, budget.seed, mel.hop)
    tracks = [pitch_of(one, mel) for one in crops.waveforms] if config.sample_rate else None
    to_mel, vocos = Mel(mel), Vocos(config)
    _start(vocos, budget.seed)
    start_from_mel(vocos, mel)
    vocos.to(budget.device)
    vae = None if vae is None else copy.deepcopy(vae).to(budget.device)

    def losses() -> dict[str, Tensor]:
        places = crops.places(budget.batch)
        waveform = crops.cut(places).to(budget.device)
        target, parts, track = to_mel(waveform), {}, None
        with budget.precision():
            heard = _half_decoded(target, vae)
            tokens = vocos.trunk(heard)
            if tracks is not None:
                track = track_at(tracks, places, budget.frames, mel.hop).to(budget.device)
                parts = pitch_losses(vocos.track(tokens), track)
                track = Track(track[0], track[1].logit(eps=1e-4))
            made = vocos.render(heard, tokens, track)
        parts |= {"mel": (to_mel(made) - target).abs().mean()} | spectral_losses(made, waveform)
        return {"loss": sum(WEIGHTS[name] * part for name, part in parts.items())} | parts

    return fit(vocos, budget, losses, on_step)


def pitch_losses(found: Track, wanted: Tensor) -> dict[str, Tensor]:
    """Octaves off where there is a pitch, cross-entropy of whether there is. wanted: (2, b, t) Hz, 0 or 1."""
    hertz, voiced = wanted
    octaves = (found.hertz.log2() - hertz.log2()).abs() * voiced
    missed = F.binary_cross_entropy_with_logits(found.voiced, voiced)
    return {"pitch": octaves.sum() / voiced.sum().clamp(min=1), "voiced": missed}


def pitch_of(waveform: Tensor, mel: MelConfig) -> Tensor:
    """(n,) -> (2, n // hop): Hz by YIN in each mel frame, bridged where there is none; and 1 where it is."""
    found = pitch_track(waveform, mel.sample_rate).numpy()
    late = round((WINDOW / 2 + EARLIER - mel.hop / 2) / HOP)  # frames by which YIN looks ahead
    frames = np.arange(len(waveform) // mel.hop) - late
    voiced = np.flatnonzero(~np.isnan(found))
    if not len(voiced):
        return torch.stack([torch.full((len(frames),), 2 * LOWEST), torch.zeros(len(frames))])
    octaves = np.interp(frames, voiced, np.log2(found[voiced]))
    return torch.tensor(np.stack([2**octaves, np.isin(frames, voiced)]), dtype=torch.float32)


def track_at(tracks: Sequence[Tensor], places: Sequence[Place], frames: int, hop: int) -> Tensor:
    """(2, b, t) of the crops at these places."""
    rows = [tracks[clip][:, start // hop : start // hop + frames] for clip, start in places]
    return torch.stack(rows, dim=1)


def spectral_losses(made: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Of waveforms (b, n), over `RESOLUTIONS`: "magnitude" L1 of logs, "convergence" relative L2; "phase".

    "phase" compares phase *differences* between neighbouring frames and bins, at the resolution `PHASE`,
    where the target is loud: a common offset, which a mel does not determine, costs nothing.
    """
    magnitudes, convergences, phase = [], [], made.new_zeros(())
    for n_fft, hop in RESOLUTIONS:
        ours, theirs = stft(made, n_fft, hop), stft(target, n_fft, hop)
        loud, want = _magnitude(ours), _magnitude(theirs)
        magnitudes.append((loud.clamp(min=1e-3).log() - want.clamp(min=1e-3).log()).abs().mean())
        convergences.append((loud - want).square().mean().sqrt() / want.square().mean().sqrt())
        if (n_fft, hop) == PHASE:
            ours, theirs = ours / loud, theirs / want
            phase = sum(_turn(ours, theirs, want, dim) for dim in (-1, -2))
    means = {"magnitude": torch.stack(magnitudes).mean(), "convergence": torch.stack(convergences).mean()}
    return means | {"phase": phase}


def _turn(ours: Tensor, theirs: Tensor, loudness: Tensor, dim: int) -> Tensor:
    """1 - cos of the difference in phase advance along `dim` of two unit spectra, weighted by `loudness`."""
    relative = ours * theirs.conj()  # the phase error; its advance is the error of the advance
    size = relative.shape[dim] - 1
    after, before = relative.narrow(dim, 1, size), relative.narrow(dim, 0, size)
    cosine = after.real * before.real + after.imag * before.imag
    weight = (loudness.narrow(dim, 1, size) * loudness.narrow(dim, 0, size)).sqrt()
    return (weight * (1 - cosine)).sum() / weight.sum().clamp(min=1e-6)


def _magnitude(spectrum: Tensor) -> Tensor:
    return (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()


@dataclass
class Crops:
    """Random pieces of equal length, starting at multiples of `hop`; clips drawn by how many they hold."""

    waveforms: Sequence[Tensor]
    samples: int
    seed: int
    hop: int = 1
    generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.waveforms = [one for one in self.waveforms if len(one) >= self.samples]
        if not self.waveforms:
            raise ValueError(f"no waveform has the {self.samples} samples of one crop")
        self.generator = torch.Generator("cpu").manual_seed(self.seed)
        room = [(len(one) - self.samples) // self.hop + 1 for one in self.waveforms]
        self.room = torch.tensor(room).double()

    def draw(self, count: int) -> Tensor:
        """(count, samples)"""
        return self.cut(self.places(count))

    def places(self, count: int) -> list[Place]:
        clips = torch.multinomial(self.room, count, replacement=True, generator=self.generator).tolist()
        starts = (torch.rand(count, generator=self.generator).double() * self.room[clips]).long()
        return list(zip(clips, (starts * self.hop).tolist(), strict=True))

    def cut(self, places: Sequence[Place]) -> Tensor:
        """(b, samples)"""
        return torch.stack([self.waveforms[c][s : s + self.samples].float() for c, s in places])


@torch.no_grad()
def _standardise(vae: AudioVAE, mels: Tensor) -> None:
    """Set the VAE's mean and deviation of each mel to those of `mels` (b, mels, t)."""
    vae.data_mean.copy_(mels.mean((0, 2), keepdim=True))
    vae.data_std.copy_(mels.std((0, 2), keepdim=True).clamp(min=0.05))


@torch.no_grad()
def _start(model: nn.Module, seed: int) -> None:
    """Draw the weight matrices from normals of unit row norm, from `seed` alone; biases are zero."""
    generator = torch.Generator("cpu").manual_seed(seed)
    for name, one in model.named_parameters():
        if one.dim() > 1:
            one.normal_(generator=generator).div_(math.sqrt(one[0].numel()))
        elif name.endswith("bias"):
            one.zero_()


@torch.no_grad()
def _half_decoded(mel: Tensor, vae: AudioVAE | None) -> Tensor:
    if vae is None:
        return mel
    half = len(mel) // 2
    return torch.cat((mel[:half], vae.decode_raw(vae.posterior(mel[half:])[0])))


@torch.no_grad()
def _with_statistics(vae: AudioVAE, mels: Tensor) -> AudioVAE:
    mean, _ = vae.posterior(mels)
    statistics = {"latent_mean": mean.mean((0, 2)), "latent_std": mean.std((0, 2))}
    vae.config = replace(vae.config, **{name: tuple(one.tolist()) for name, one in statistics.items()})
    log.info("latent deviations %.2f to %.2f", min(vae.config.latent_std), max(vae.config.latent_std))
    return vae
