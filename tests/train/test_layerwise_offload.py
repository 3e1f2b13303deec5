"""Layer by layer: the gradients of the usual order, from weights that are there for their layer's turn only."""

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
from encodery.train.launch import resume, start
from encodery.train.layered import LayerwiseOffload
from encodery.train.pretrain import PretrainJob
from encodery.train.step import forward_backward

Table = Callable[..., dict[str, Any]]
Losses = Callable[[Path], dict[int, float]]
TRAIN: dict[str, Any] = {"batch_tokens": 512, "micro_batch_tokens": 128, "layerwise_offload": True}
CPU = torch.device("cpu")
MODELS: list[dict[str, Any]] = [
    {"positions": {"is": "rotary"}, "block": {"is": "pre"}, "ffn": {"is": "glu"}, "depth": 3},
    {"positions": {"is": "learned"}, "block": {"is": "post"}, "ffn": {"is": "mlp"}, "depth": 2, "dropout": 0.1},
    {"positions": {"is": "alibi"}, "depth": 2, "attention": {"is": "full", "dropout": 0.1}},
]


def step_of(recipe: dict[str, Any], prepare: Callable[[PretrainJob], None] = lambda job: None) -> tuple[Any, Any]:
    """Terms and gradients of a step of a fresh job."""
    job = PretrainJob.rebuild(recipe, DistributedContext(), CPU)
    prepare(job)
    work = job.batches(0, 0.5, 512, None)
    assert len(work.micro_batches) == 4
    terms = forward_backward(job, work, DistributedContext(), "fp32", 0, 0)
    return terms, {name: p.grad for name, p in job.module.named_parameters()}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model["positions"]["is"])
def test_gradients_are_those_of_the_usual_order(table: Table, model: dict[str, Any]) -> None:
    terms, grads = step_of(table(model=model, train=TRAIN))
    wanted, wanted_grads = step_of(table(model=model, train={**TRAIN, "layerwise_offload": False}))
    for one, other in zip(terms, wanted, strict=True):
        assert {name: term.total.item() for name, term in one.items()} == {n: t.total.item() for n, t in other.items()}
    assert grads.keys() == wanted_grads.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(grad, wanted_grads[name], rtol=1e-6, atol=1e-7, msg=name)


def test_a_layer_is_there_for_its_turn_only(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that wait are no numbers here: whatever touched them would show."""
    model = MODELS[0]
    _, wanted = step_of(table(model=model, train=TRAIN))
    vault: dict[nn.Parameter, Tensor] = {}
    turns: list[str] = []
    fetch, release = LayerwiseOffload._fetch, LayerwiseOffload._release

    def spoil(job: PretrainJob) -> None:
        for p in job.model.encoder.blocks.parameters():
            vault[p] = p.data.clone()
            p.data.fill_(math.nan)

    def fetched(self: LayerwiseOffload, block: nn.Module) -> None:
        assert not self.homes, "another layer is still there"
        turns.append("come")
        fetch(self, block)
        for p in block.parameters():
            p.data.copy_(vault[p])

    def released(self: LayerwiseOffload, block: nn.Module) -> None:
        turns.append("go")
        release(self, block)
        assert all(p.data.isnan().all() for p in block.parameters())

    monkeypatch.setattr(LayerwiseOffload, "_fetch", fetched)
    monkeypatch.setattr(LayerwiseOffload, "_release", released)
    _, grads = step_of(table(model=model, train=TRAIN), spoil)
    assert turns == ["come", "go"] * 6, "three layers, there and back, whatever the number of micro-batches"
    for name, grad in grads.items():
        assert torch.equal(grad, wanted[name]), name


def test_a_run_learns_what_it_would_and_resumes_as_it_was(
    table: Table, tmp_path: Path, power_cut: Callable[[int], AbstractContextManager[None]], losses: Losses
) -> None:
    model = {"depth": 2, "dropout": 0.1}
    whole = start(table(model=model, train=TRAIN), tmp_path / "whole").metrics
    plain = start(table(model=model, train={**TRAIN, "layerwise_offload": False}), tmp_path / "plain").metrics
    assert whole["heldout_loss"] == pytest.approx(plain["heldout_loss"], rel=1e-4)
    mine, theirs = losses(tmp_path / "whole"), losses(tmp_path / "plain")
    assert mine == {step: pytest.approx(loss, rel=1e-4) for step, loss in theirs.items()}
    with power_cut(7):
        start(table(model=model, train=TRAIN), tmp_path / "torn")
    resume(tmp_path / "torn")
    assert losses(tmp_path / "torn") == mine


def test_sub_models_go_by_layers_as_well(table: Table, tmp_path: Path, losses: Losses) -> None:
    """Where a layer passes on what it gets, the same tensor goes into two of them."""
    hooks = [{"is": "sub_models", "trained_layers": 1, "budget_fraction": 0.9}]
    found = []
    for layered in (True, False):
        train = {**TRAIN, "layerwise_offload": layered, "budget": "6steps", "evals": 0}
        start(table(model={"depth": 3}, train=train, hooks=hooks), tmp_path / str(layered))
        found.append(losses(tmp_path / str(layered)))
    assert found[0] == {step: pytest.approx(loss, rel=1e-5) for step, loss in found[1].items()}


def test_the_preflight_plans_with_it(table: Table) -> None:
    model = {"depth": 12, "width": 64, "intermediate_size": 256}
    plain = PretrainJob.memory_estimate(table(model=model, train={**TRAIN, "layerwise_offload": False}))
    for offload in (False, True):
        needs = PretrainJob.memory_estimate(table(model=model, train={**TRAIN, "optimizer_offload": offload}))
        assert needs.memory < plain.memory / 3
        assert needs.activations < plain.activations
        assert needs.memory + needs.host_memory < plain.memory


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"objective": {"is": "mask_late"}, "model": {"depth": 2}}, "layer by layer"),
        ({"train": {"fsdp": True}}, "leave train.fsdp off"),
        ({"train": {"static": "compiled"}}, "uncompiled"),
    ],
)
def test_what_cannot_go_by_layers_is_refused(table: Table, over: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        PretrainJob.rebuild(table(**{**over, "train": {**TRAIN, **over.get("train", {})}}), DistributedContext(), CPU)
