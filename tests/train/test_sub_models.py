"""Sub-models: which layers run and are trained in a step, scores of the whole model, and resumed runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from encodery.base.errors import SettingsError
from encodery.base.run_log import read_log
from encodery.model.blocks.pre import PreNorm
from encodery.model.network import Model, build_model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch
from encodery.train.hooks import TrainState
from encodery.train.hooks.sub_models import SubModels
from encodery.train.launch import resume, start
from encodery.train.loop import Loop
from encodery.train.recipe import Recipe

SETTINGS = ModelSettings(width=8, depth=5, heads=2, intermediate_size=8, vocab_size=20, max_length=8, block=PreNorm())
BATCH = Batch.from_sequences([[5, 6, 7, 8], [9, 10]])


def scores(model: Model) -> torch.Tensor:
    output = model(BATCH)
    return output.mlm_logits(output.hidden)


def truncated(model: Model, depth: int) -> torch.Tensor:
    """Scores of the same weights in a model of fewer layers."""
    shallow = Model(
        ModelSettings(width=8, depth=depth, heads=2, intermediate_size=8, vocab_size=20, max_length=8, block=PreNorm())
    )
    shallow.load_state_dict({k: v for k, v in model.state_dict().items() if k in shallow.state_dict()})
    return scores(shallow.eval())


def gradients(model: Model) -> set[str]:
    """The parameters that a step would change."""
    assert all(p.requires_grad == (p.grad is not None) for p in model.parameters())
    return {name for name, p in model.named_parameters() if p.grad is not None}


def test_a_step_runs_and_trains_a_part_of_the_layers() -> None:
    model = build_model(SETTINGS, 0).eval()
    hook = SubModels(trained_layers=2, budget_fraction=0.5).build(model)
    whole, names = scores(model).detach(), list(model.state_dict())
    seen = set()
    for step in range(12):
        hook.before_step(TrainState(step, 0, 0.0, step / 30))
        depth = int(hook.metrics()["layers"])
        seen.add(depth)
        model.zero_grad(set_to_none=True)
        result = scores(model)
        assert torch.equal(result, truncated(model, depth))
        result.logsumexp(-1).sum().backward()
        learning = {int(name.split(".")[2]) for name in gradients(model) if ".blocks." in name}
        assert learning == set(range(depth - 2, depth))
        outside = {name for name in gradients(model) if ".blocks." not in name}
        tables = {"encoder.positions.table.weight", "encoder.embedding_norm.weight", "encoder.embedding_norm.bias"}
        assert outside == {name for name in names if ".blocks." not in name} - (tables if depth > 2 else set())
        with hook.evaluation_weights():
            assert torch.equal(scores(model), whole)
        assert torch.equal(scores(model), result)
        assert list(model.state_dict()) == names
    assert seen == {2, 4, 5}
    hook.before_step(TrainState(15, 0, 0.0, 0.5))
    assert hook.metrics() == {}
    assert torch.equal(scores(model), whole)
    assert all(p.requires_grad for p in model.parameters())


def test_a_resumed_run_draws_the_same_sub_models(
    table: Callable[..., Recipe[Any]],
    losses: Callable[[Path], dict[int, float]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = table(
        model={"depth": 3},
        hooks=[{"is": "sub_models", "trained_layers": 1, "budget_fraction": 0.5}],
        train={"budget": "8steps", "checkpoint_every": "1steps", "evals": 2},
    )
    start(recipe, tmp_path / "whole")
    step = Loop._step

    def fail(self: Loop, elapsed: float) -> None:
        if self.clock.step == 3:
            raise KeyboardInterrupt
        step(self, elapsed)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_step", fail)
        with pytest.raises(KeyboardInterrupt):
            start(recipe, tmp_path / "parted")
    resume(tmp_path / "parted")
    assert losses(tmp_path / "parted") == losses(tmp_path / "whole")
    drawn = [line.get("layers") for line in read_log(tmp_path / "whole/log.jsonl") if "loss" in line]
    assert all(depth in (1, 2, 3) for depth in drawn[:4])
    assert drawn[4:] == [None] * 4


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(SettingsError, match="trained_layers = 0"):
        SubModels(trained_layers=0)
    with pytest.raises(SettingsError, match=r"budget_fraction = 1\.5"):
        SubModels(budget_fraction=1.5)
