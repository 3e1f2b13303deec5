"""Layer-by-layer execution: the gradients of plain execution, with the weights of one layer at a time on the device."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from encodery.base.errors import SettingsError
from encodery.train.distributed import DistributedContext
from encodery.train.execution._layers import LayerSteps
from encodery.train.execution.layerwise_offload import LayerwiseOffload
from encodery.train.job import Job
from encodery.train.launch import choose_execution, resume, start
from encodery.train.pretrain import PretrainJob
from encodery.train.recipe import Recipe
from encodery.train.step import forward_backward

Table = Callable[..., Recipe[Any]]
Losses = Callable[[Path], dict[int, float]]
TRAIN: dict[str, Any] = {"batch_tokens": 512, "micro_batch_tokens": 128, "layerwise_offload": True}
CPU, SINGLE = torch.device("cpu"), DistributedContext()
MODELS: list[dict[str, Any]] = [
    {"positions": {"is": "rotary"}, "block": {"is": "pre"}, "ffn": {"is": "glu"}, "depth": 3},
    {"positions": {"is": "learned"}, "block": {"is": "post"}, "ffn": {"is": "mlp"}, "depth": 2, "dropout": 0.1},
    {
        "positions": {"is": "learned"},
        "depth": 2,
        "ffn": {"is": "mixture", "expert": "mlp", "experts": 3, "balance_weight": 0.5},
    },
    {"positions": {"is": "alibi"}, "depth": 2, "attention": {"is": "full", "dropout": 0.1}},
]


def step_of(recipe: Recipe[Any], prepare: Callable[[PretrainJob], None] = lambda job: None) -> tuple[Any, Any]:
    """Loss terms and gradients of one step of a new job."""
    job = PretrainJob.from_recipe(recipe, SINGLE, CPU)
    prepare(job)
    execution = choose_execution(PretrainJob, recipe.settings, CPU).build(job, SINGLE, CPU)
    batches = job.batches(0, 0.5, 512, None)
    assert len(batches.micro_batches) == 4
    terms = forward_backward(execution, batches, SINGLE, "fp32", 0, 0)
    return terms, {name: p.grad for name, p in job.module.named_parameters()}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model["positions"]["is"])
def test_gradients_equal_those_of_plain_execution(table: Table, model: dict[str, Any]) -> None:
    terms, grads = step_of(table(model=model, train=TRAIN))
    plain, plain_grads = step_of(table(model=model, train={**TRAIN, "layerwise_offload": False}))
    for one, other in zip(terms, plain, strict=True):
        assert {name: term.total.item() for name, term in one.items()} == {n: t.total.item() for n, t in other.items()}
    assert grads.keys() == plain_grads.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(grad, plain_grads[name], rtol=1e-6, atol=1e-7, msg=name)


def test_weights_are_on_the_device_only_while_their_layer_runs(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of layers that do not run are NaN here, so that every use of them would show."""
    model = MODELS[0]
    _, expected = step_of(table(model=model, train=TRAIN))
    weights: dict[nn.Parameter, Tensor] = {}
    events: list[str] = []
    fetch, release = LayerSteps._fetch, LayerSteps._release

    def spoil(job: PretrainJob) -> None:
        for p in job.model.encoder.blocks.parameters():
            weights[p] = p.data.clone()
            p.data.fill_(math.nan)

    def recorded_fetch(self: LayerSteps, block: nn.Module) -> None:
        assert not self.host_weights, "another layer is still on the device"
        events.append("fetch")
        fetch(self, block)
        for p in block.parameters():
            p.data.copy_(weights[p])

    def recorded_release(self: LayerSteps, block: nn.Module) -> None:
        events.append("release")
        release(self, block)
        assert all(p.data.isnan().all() for p in block.parameters())

    monkeypatch.setattr(LayerSteps, "_fetch", recorded_fetch)
    monkeypatch.setattr(LayerSteps, "_release", recorded_release)
    _, grads = step_of(table(model=model, train=TRAIN), spoil)
    assert events == ["fetch", "release"] * 6, "three layers, forward and backward, for any number of micro-batches"
    for name, grad in grads.items():
        assert torch.equal(grad, expected[name]), name


def test_a_run_has_the_losses_of_plain_execution_and_can_be_resumed(
    table: Table, tmp_path: Path, power_cut: Callable[[int], AbstractContextManager[None]], losses: Losses
) -> None:
    model = {"depth": 2, "dropout": 0.1}
    whole = start(table(model=model, train=TRAIN), tmp_path / "whole").metrics
    plain = start(table(model=model, train={**TRAIN, "layerwise_offload": False}), tmp_path / "plain").metrics
    assert whole["heldout_loss"] == pytest.approx(plain["heldout_loss"], rel=1e-4)
    curve, plain_curve = losses(tmp_path / "whole"), losses(tmp_path / "plain")
    assert curve == {step: pytest.approx(loss, rel=1e-4) for step, loss in plain_curve.items()}
    with power_cut(7):
        start(table(model=model, train=TRAIN), tmp_path / "interrupted")
    resume(tmp_path / "interrupted")
    assert losses(tmp_path / "interrupted") == curve


def test_sub_models_can_be_trained_layer_by_layer(table: Table, tmp_path: Path, losses: Losses) -> None:
    """A skipped layer returns its input, so the same tensor goes into two layers."""
    hooks = [{"is": "sub_models", "trained_layers": 1, "budget_fraction": 0.9}]
    curves = []
    for layerwise in (True, False):
        train = {**TRAIN, "layerwise_offload": layerwise, "budget": "6steps", "evals": 0}
        start(table(model={"depth": 3}, train=train, hooks=hooks), tmp_path / str(layerwise))
        curves.append(losses(tmp_path / str(layerwise)))
    assert curves[0] == {step: pytest.approx(loss, rel=1e-5) for step, loss in curves[1].items()}


def test_the_memory_estimate_accounts_for_it(table: Table) -> None:
    model = {"depth": 12, "width": 64, "intermediate_size": 256}
    plain = PretrainJob.memory_estimate(table(model=model, train={**TRAIN, "layerwise_offload": False}))
    for offload in (False, True):
        estimate = PretrainJob.memory_estimate(table(model=model, train={**TRAIN, "optimizer_offload": offload}))
        assert estimate.memory < plain.memory / 3
        assert estimate.activations < plain.activations
        assert estimate.memory + estimate.host_memory < plain.memory


def test_an_objective_that_does_not_read_layer_by_layer_is_refused(table: Table) -> None:
    recipe = table(objective={"is": "mask_late"}, model={"depth": 2}, train=TRAIN)
    job = PretrainJob.from_recipe(recipe, SINGLE, CPU)
    with pytest.raises(SettingsError, match="layer by layer"):
        LayerwiseOffload().build(job, SINGLE, CPU)


@pytest.mark.parametrize("other", ["fsdp", "compile", "cuda_graphs"])
def test_strategies_exclude_each_other(table: Table, other: str) -> None:
    recipe = table(train={**TRAIN, other: True})
    with pytest.raises(SettingsError, match=r"selects .*layerwise_offload.* exclude each other"):
        choose_execution(PretrainJob, recipe.settings, CPU)


def test_a_job_that_needs_the_whole_model_is_refused(table: Table) -> None:
    with pytest.raises(SettingsError, match="needs the whole model on the device"):
        choose_execution(Job, table(train=TRAIN).settings, CPU)
