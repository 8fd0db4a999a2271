"""The trainer: one step after the other, on one process or many, exact when it is taken up again.

What a step learns from is drawn by `Batches` from the seed and the step alone; what else it needs (weights,
moments, averages) is in its checkpoints.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..av import AV
from ..peak import peak_memory
from .batches import Batches, Drawn, Step
from .checkpoints import RunState, read_run_state, save_checkpoint
from .config import TrainConfig
from .loop import parameter_groups
from .metrics import Record
from .sharding import load_sharded, save_sharded, sharded, spread
from .tally import STREAMS, Tally

if TYPE_CHECKING:
    from accelerate import Accelerator

KEEP = 0.98  # of the running mean of a loss, per step
SETTLED = 50  # steps, before a loss can be called exploded
EXPLODED = 30.0  # times its running mean


class Trainer:
    """A run in memory. Everything that can be refused has been refused before this is made."""

    def __init__(
        self, trainee: nn.Module, names: list[str], batches: Batches, accelerator: Accelerator
    ) -> None:
        """names: of the parameters that learn, as `select` gives them."""
        self.config, self.batches, self.accelerator, self.names = batches.config, batches, accelerator, names
        self.trainee = spread(trainee, accelerator, self.config.memory.precision)
        self.optimizer = accelerator.prepare_optimizer(make_optimizer(self.module, self.config))
        self.trainee.train()
        self.step = 0
        self.running: dict[str, float] = {}
        with torch.no_grad():
            learning = self.parameters().items() if self.config.ema else ()
            self.averaged = {name: one.detach().clone() for name, one in learning}

    # --- what learns -------------------------------------------------------------------------------------

    @property
    def module(self) -> nn.Module:
        """The `Trainee` under whatever spreads it over processes."""
        return self.accelerator.unwrap_model(self.trainee)

    def parameters(self) -> dict[str, nn.Parameter]:
        found = dict(self.module.named_parameters())
        return {name: found[name] for name in self.names}

    @contextmanager
    def best_weights(self) -> Iterator[nn.Module]:
        """The trainee in eval mode with its averaged weights, where there are any; as it was, afterwards."""
        module, live = self.module, {}
        with torch.no_grad():
            for name, parameter in self.parameters().items() if self.averaged else ():
                live[name] = parameter.detach().clone()
                parameter.copy_(self.averaged[name])
        module.eval()
        try:
            yield module
        finally:
            module.train()
            with torch.no_grad():
                for name, value in live.items():
                    self.parameters()[name].copy_(value)

    # --- a step ------------------------------------------------------------------------------------------

    def take_step(self) -> Record:
        """Learn from the next clips. ValueError naming the step, the clip and the stream if a loss bursts."""
        start, step = time.perf_counter(), self.batches.step(self.step)
        rate = self.set_rate(self.step)
        tally = self.backward(step)
        gradient = float(
            self.accelerator.clip_grad_norm_(self.parameters().values(), self.config.optimizer.clip)
        )
        if not math.isfinite(gradient):
            raise ValueError(
                f"step {self.step + 1}: the gradient is not finite; lower optimizer.learning_rate "
                "and go on from the last checkpoint with --resume"
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average()
        self.step += 1
        return self.record(step, tally, rate, gradient, time.perf_counter() - start)

    def pace(self) -> float:
        """Clips a second: the next step's gradients twice, thrown away; the second time counts."""
        step = self.batches.step(self.step)
        for _ in range(2):
            start = time.perf_counter()
            self.backward(step)
            self.optimizer.zero_grad(set_to_none=True)
        return self.config.batch / (time.perf_counter() - start)

    def backward(self, step: Step) -> Tally:
        """Gradients of all passes, and the losses of all processes."""
        passes = self.batches.passes(step, self.accelerator.process_index, self.accelerator.num_processes)
        share, tally = self.config.batch // self.accelerator.num_processes, Tally()
        for i, places in enumerate(passes, 1):
            drawn = on_device(self.batches.draw(step, places), self.accelerator.device)
            with self.gradients_meet(i == len(passes)):
                losses = self.trainee(drawn)
                self.accelerator.backward(self.total(losses) / share)
            values = {name: loss.detach().double().cpu() for name, loss in losses.items()}
            self.check(values, drawn)
            tally.add(values, drawn)
        tally.reduce(lambda one: self.accelerator.reduce(one.to(self.accelerator.device), "sum").cpu())
        return tally

    def gradients_meet(self, last: bool) -> AbstractContextManager:
        """Over processes after the last pass; after each where they are sharded, or they would not fit."""
        waits = not last and not sharded(self.accelerator)
        return self.accelerator.no_sync(self.trainee) if waits else nullcontext()

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum over names and clips."""
        weights = self.config.loss
        scale = {name: 1.0 for name in losses}
        if weights.balance:
            scale |= {name: 1 / self.running.get(name, 1.0) for name in STREAMS}
        return sum(getattr(weights, name) * scale[name] * one.sum() for name, one in losses.items())

    def check(self, losses: Mapping[str, Tensor], drawn: Drawn) -> None:
        """ValueError for a loss of a clip that is not finite or far above its mean so far."""
        for name, values in losses.items():
            settled = self.step >= SETTLED and name in self.running
            limit = EXPLODED * max(self.running[name], 0.1) if settled else math.inf
            for i, value in enumerate(values.tolist()):
                if not value < limit:
                    what = f"has jumped to {value:.3g}" if math.isfinite(value) else "is not finite"
                    raise ValueError(
                        f"step {self.step + 1}, clip {drawn.names[i]}: the {damaged(drawn, i) or name} loss "
                        f"{what}; look at that clip, or lower optimizer.learning_rate, and go on from the "
                        "last checkpoint with --resume"
                    )

    def record(self, step: Step, tally: Tally, rate: float, gradient: float, seconds: float) -> Record:
        means = tally.means()
        for name, mean in means.items():
            self.running[name] = KEEP * self.running.get(name, mean) + (1 - KEEP) * mean
        return Record(
            step=self.step,
            of=self.config.steps,
            task=step.name,
            loss=sum(getattr(self.config.loss, name) * mean for name, mean in means.items()),
            losses=means,
            rate=rate,
            gradient=gradient,
            seconds=seconds,
            memory=peak_memory(self.accelerator.device),
            bins=tally.bins(),
        )

    def set_rate(self, step: int) -> float:
        rate = learning_rate(self.config, step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["share"] * rate
        return rate

    @torch.no_grad()
    def average(self) -> None:
        """Move the averaged weights; the first ones weigh less, or they would stay near the start."""
        if self.averaged:
            keep = min(self.config.ema, (self.step + 1) / (self.step + 10))
            for name, parameter in self.parameters().items():
                self.averaged[name].lerp_(parameter, 1 - keep)

    # --- checkpoints -------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint holds, by name; each is the live tensor."""
        parameters = self.parameters()
        found = {f"trained.{name}": one.detach() for name, one in parameters.items()}
        found |= {f"ema.{name}": one for name, one in self.averaged.items()}
        for name, parameter in parameters.items():
            moments = self.optimizer.state[parameter]
            found |= {f"optimizer.{name}.{key}": one for key, one in moments.items() if torch.is_tensor(one)}
        return found

    def save(self, out: Path) -> None:
        state = RunState(
            step=self.step,
            seed=self.config.seed,
            config=self.config.fingerprint,
            cache=self.batches.cache.fingerprint,
            running=self.running,
            torch=torch.__version__,
        )
        tensors = self.tensors()
        keep = self.config.checkpoints.keep
        save_checkpoint(out, state, lambda folder: save_sharded(tensors, folder), keep, self.accelerator)

    def load(self, checkpoint: Path) -> None:
        """Go on as if the run had never stopped."""
        state = read_run_state(checkpoint)
        self.make_moments()
        load_sharded(self.tensors(), checkpoint)
        self.step, self.running = state.step, dict(state.running)

    def make_moments(self) -> None:
        """Let the optimiser make its state, by a step that changes nothing."""
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0
        for parameter in self.parameters().values():
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def make_optimizer(trainee: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Over what requires a gradient. ValueError of one sentence if a package is missing."""
    chosen, groups = config.optimizer, parameter_groups(trainee, config.optimizer.width)
    options: dict[str, Any] = {"lr": 0.0, "betas": chosen.betas, "eps": chosen.eps}
    options["weight_decay"] = chosen.weight_decay
    if chosen.kind == "adamw":
        return torch.optim.AdamW(groups, **options)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise ValueError(
            "optimizer.kind adamw8bit needs the package bitsandbytes; pip install bitsandbytes, or take adamw"
        ) from error
    return AdamW8bit(groups, **options)


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then constant, or to zero in a straight line or half a cosine."""
    chosen, progress = config.optimizer, step / config.steps
    falls = {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}
    rise = min(1.0, (step + 1) / chosen.warmup) if chosen.warmup else 1.0
    return chosen.learning_rate * rise * falls[chosen.schedule]


def damaged(drawn: Drawn, i: int) -> str | None:
    """The stream whose latent is not finite in this clip: its loss is to blame, whichever shows it first."""
    for name in STREAMS:
        latent = getattr(drawn.batch.latent, name)
        if latent is not None and not latent[i].isfinite().all():
            return name
    return None


def on_device(drawn: Drawn, device: torch.device) -> Drawn:
    """Every tensor of a pass."""

    def moved(one: Any) -> Any:
        if isinstance(one, Tensor):
            return one.to(device, non_blocking=True)
        return one.map(moved) if isinstance(one, AV) else one

    batch = type(drawn.batch)(**{name: moved(one) for name, one in vars(drawn.batch).items()})
    return drawn._replace(
        batch=batch, sigma=moved(drawn.sigma), noise=moved(drawn.noise), spoken=moved(drawn.spoken)
    )
