"""Contract of the execution strategies: each gives the loss terms and gradients of plain execution."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from encodery.base.parts import find_part, part_names
from encodery.base.settings import decode, encode
from encodery.tokens.store import TokenStore
from encodery.train.distributed import DistributedContext
from encodery.train.execution import Execution, compiled, cuda_graphs
from encodery.train.execution._graph import CompiledTerms
from encodery.train.execution.plain import Plain
from encodery.train.job import Job
from encodery.train.pretrain import PretrainJob
from encodery.train.pretrain_settings import PretrainSettings
from encodery.train.settings import TrainSettings
from encodery.train.step import forward_backward

CPU, SINGLE = torch.device("cpu"), DistributedContext()
SETTINGS: dict[str, Any] = {
    "model": {"width": 16, "depth": 2, "heads": 2, "intermediate_size": 32, "max_length": 32},
    "feed": {"max_length": 32},
    "objective": {"is": "mlm", "corruption": {"is": "token", "fixed_predictions": True}},
    "train": {"batch_tokens": 512, "micro_batch_tokens": 128, "static_shapes": True},
}


@pytest.fixture
def job(store: Path) -> PretrainJob:
    tokens = TokenStore.open(store)
    settings = decode(PretrainSettings, SETTINGS).with_vocab_size(tokens.special_tokens.vocab_size)
    return PretrainJob(settings, tokens, SINGLE, CPU)


def gradients(strategy: Execution, job: PretrainJob) -> tuple[list[float], dict[str, torch.Tensor]]:
    execution = strategy.build(job, SINGLE, CPU)
    assert execution.job is job
    job.module.zero_grad(set_to_none=True)
    start = job.state()
    terms = forward_backward(execution, job.batches(0, 0.5, 512, None), SINGLE, "fp32", 0, 0)
    job.load_state(start)
    grads = {n: p.grad.clone() for n, p in job.module.named_parameters() if p.grad is not None}
    with execution.whole_weights(), execution.full_parameters():
        pass
    return [float(term.total) for one in terms for term in one.values()], grads


@pytest.mark.parametrize("name", part_names(Execution))
def test_terms_and_gradients_are_those_of_plain_execution(
    name: str, job: PretrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (compiled, cuda_graphs):
        terms = functools.partial(_without_mode, backend="eager")
        monkeypatch.setattr(module, "CompiledTerms", terms)
    expected, expected_grads = gradients(Plain(), job)
    losses, grads = gradients(find_part(Execution, name)(), job)
    assert losses == pytest.approx(expected, rel=1e-5)
    assert grads.keys() == expected_grads.keys()
    for key, grad in grads.items():
        torch.testing.assert_close(grad, expected_grads[key], rtol=1e-4, atol=1e-6, msg=key)


def _without_mode(job: Job, cuda_graphs: bool = False, backend: str = "eager") -> CompiledTerms:
    """Compiled terms on a CPU, which cannot record kernels."""
    torch._dynamo.reset()
    return CompiledTerms(job, backend=backend)


@pytest.mark.parametrize("name", part_names(Execution))
def test_default_settings_select_no_strategy_and_every_strategy_explains_itself(name: str) -> None:
    part = find_part(Execution, name)()
    assert decode(Execution, encode(part)) == part
    assert not part.selected(TrainSettings())
    reasons = part.incompatibilities(PretrainJob, decode(PretrainSettings, SETTINGS), CPU)
    assert all(reason.startswith("train.") for reason in reasons)
