"""The trainer: what a step does must not depend on how it is cut, and what is frozen does not move."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

from unitalk_core.training.setup import make_accelerator, set_up
from unitalk_core.training.trainer import Trainer, learning_rate

FULL = ("method=full", 'train=["audio.*"]')


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: one.detach().clone() for name, one in trainer.module.state_dict().items()}


def after(trainer: Trainer, steps: int) -> dict[str, torch.Tensor]:
    for _ in range(steps):
        trainer.take_step()
    return weights(trainer)


@pytest.mark.parametrize("method", [(), FULL], ids=["lora", "full"])
def test_what_the_plan_lists_changes_and_the_rest_stays_bit_by_bit(make_trainer, configure, clips, method):
    changes = ('tasks={"tr2av": 1}', "drop.reference=0", "drop.text=0", *method)
    config = configure(*changes)
    plan = set_up(config, clips, make_accelerator(config)).plan
    trainer = make_trainer(*changes)
    before = weights(trainer)
    changed = {name for name, one in after(trainer, 3).items() if not torch.equal(one, before[name])}
    assert changed == set(plan.trained)


def test_accumulation_gives_the_gradient_of_the_whole_batch(make_trainer):
    """Compared before AdamW, which would divide tiny gradients by their own size."""
    gradients = []
    for accumulate in (1, 4):
        trainer = make_trainer("batch=8", f"accumulate={accumulate}", 'tasks={"tir2av": 1}')
        step = trainer.batches.step(0)
        assert max(len(one) for one in trainer.batches.passes(step)) <= 8 // accumulate
        tally = trainer.backward(step)
        gradients.append((tally.means(), [one.grad for one in trainer.parameters().values()]))
    (one, ours), (four, theirs) = gradients
    assert one == pytest.approx(four, rel=1e-5)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_it_goes_on_exactly_where_it_stopped(make_trainer, tmp_path):
    changes = ("ema=0.9", "loss.balance=true", "drop.couple=0.3", *FULL)
    whole, first, second = (make_trainer(*changes) for _ in range(3))
    after(whole, 3)
    after(first, 2)
    first.save(tmp_path)
    second.load(tmp_path / "checkpoints" / "step-000002")
    assert second.take_step().losses == whole_losses(make_trainer(*changes), 3)
    assert all(torch.equal(one, other) for one, other in zip(*map(everything, (whole, second)), strict=True))
    assert second.running == whole.running


def whole_losses(trainer: Trainer, steps: int) -> dict[str, float]:
    return [trainer.take_step().losses for _ in range(steps)][-1]


def everything(trainer: Trainer) -> list[torch.Tensor]:
    return [one for _, one in sorted(trainer.tensors().items())]


def test_the_loss_falls(make_trainer):
    trainer = make_trainer('tasks={"t2av": 1}', "drop.text=0", "optimizer.learning_rate=0.0003", *FULL)
    before = asked_again(trainer)
    after(trainer, 8)
    assert asked_again(trainer) < before


def asked_again(trainer: Trainer) -> float:
    """The audio loss on what the first steps drew."""
    steps = [trainer.batches.step(number) for number in range(4)]
    found = sum(trainer.backward(step).means()["audio"] for step in steps)
    trainer.optimizer.zero_grad()
    return found


def test_averaged_weights_are_lent_and_given_back(make_trainer):
    trainer = make_trainer("ema=0.9")
    live = after(trainer, 2)
    with trainer.best_weights() as module:
        name = trainer.names[1]
        assert torch.equal(dict(module.named_parameters())[name], trainer.averaged[name])
        assert not module.training
    assert all(torch.equal(one, live[name]) for name, one in weights(trainer).items())


def test_a_loss_that_is_no_number_names_step_clip_and_stream(make_trainer, monkeypatch):
    trainer = make_trainer()
    trainer.take_step()
    draw = trainer.batches.draw

    def broken(step, places):
        drawn = draw(step, places)
        drawn.batch.latent.audio[0, 0, 0] = float("nan")
        return drawn

    monkeypatch.setattr(type(trainer.batches), "draw", lambda _, *given: broken(*given))
    before = weights(trainer)
    with pytest.raises(ValueError, match=r"^step 2, clip 0000\d: the audio loss is not finite; .*--resume$"):
        trainer.take_step()
    assert all(torch.equal(one, before[name]) for name, one in weights(trainer).items())


def test_a_loss_that_jumps_is_named_too(make_trainer):
    trainer = make_trainer("steps=100")
    trainer.step, trainer.running = 60, {"video": 0.2}
    drawn = trainer.batches.draw(trainer.batches.step(0), [0, 1])._replace(names=["a", "b"])
    with pytest.raises(ValueError, match=r"^step 61, clip b: the video loss has jumped to 9;"):
        trainer.check({"video": torch.tensor([1.0, 9.0])}, drawn)


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_an_optimiser_whose_package_is_missing_is_refused_before_the_first_step(make_trainer):
    with pytest.raises(ValueError, match=r"optimizer\.kind adamw8bit needs the package bitsandbytes"):
        make_trainer("optimizer.kind=adamw8bit")


def test_the_rate_warms_up_and_falls(configure):
    config = configure(
        "steps=100", "optimizer.warmup=10", "optimizer.schedule=cosine", "optimizer.learning_rate=1"
    )
    rates = [learning_rate(config, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(rates[9], rel=0.05)
    assert rates[100] == pytest.approx(0, abs=1e-9)
    linear = configure("steps=100", "optimizer.schedule=linear", "optimizer.learning_rate=1")
    assert learning_rate(linear, 25) == pytest.approx(0.75)
