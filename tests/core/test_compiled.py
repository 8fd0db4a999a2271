"""Compiled blocks are compiled once, whatever is kept of the text, and make the same."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from tests.core.models.test_mmdit import inputs, randomised
from unitalk_core.cli.bundle import ATTENTION
from unitalk_core.compiled import check_compiler, compile_blocks
from unitalk_core.models.attention import BACKENDS, attention_by, check_backend, sdpa
from unitalk_core.models.mmdit import always
from unitalk_core.models.text import ReadingOnce

CPU = torch.device("cpu")
HALVES = 2  # what is compiled of a block


@torch.no_grad()
def test_all_blocks_of_all_steps_are_compiled_once_and_make_the_same():
    torch._dynamo.reset()
    model, plain, counter = randomised(), randomised(), CompileCounter()
    compile_blocks(model, counter)
    run, (latent, timestep, context, reference) = ReadingOnce(model), inputs()
    other = context.map(lambda one: 2 * one)  # is kept beside the first
    for step in (1.0, 2.0):
        for text in (context, other):
            time = timestep.map(lambda t, s=step: t / s)
            found, wanted = (each(latent, time, text, reference) for each in (run, plain))
            found.map(torch.testing.assert_close, wanted)
    assert counter.frame_count == HALVES


def test_without_a_compiler_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch):
    torch._dynamo.reset()
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    with torch._inductor.config.patch(force_disable_caches=True), pytest.raises(ValueError) as error:
        check_compiler(CPU)
    assert "cannot compile for cpu here" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("backend", ["math", "flash"])
def test_a_kernel_that_is_asked_for_attends_as_any_other(backend: str):
    check_backend(backend, 24, CPU, torch.float32)
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, 9, 24)
    torch.testing.assert_close(attention_by(backend)(q, k, v), sdpa(q, k, v))


def test_the_command_line_names_every_kernel():
    assert set(ATTENTION) == set(BACKENDS)


@pytest.mark.parametrize("backend", ["cudnn", "efficient"])
def test_a_kernel_that_a_device_does_not_have_is_refused_in_a_sentence(backend: str):
    with pytest.raises(ValueError, match=f"cpu has no {backend} attention for torch.float32 and heads of 24"):
        check_backend(backend, 24, CPU, torch.float32)


@torch.no_grad()
def test_the_model_attends_with_the_kernel_of_its_hooks_everywhere():
    model, plain, calls = randomised(), randomised(), []

    def attend(*given: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return attention_by("math")(*given)

    always(model, attention=attend)
    given = inputs()
    model(*given).map(torch.testing.assert_close, plain(*given))
    assert len(calls) == 2 * (1 + 2 + 2)  # blocks: the joint one, two texts, two voices
