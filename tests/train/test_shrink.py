"""A model that becomes smaller in the middle of a run: weights, optimiser, averages; resuming; what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from encodery.base.errors import SettingsError
from encodery.base.settings import decode
from encodery.model.checkpoint import read_tensors
from encodery.model.load import LoadedModel, load_model
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch
from encodery.model.units import best_units, magnitude_scores, selections, shrink
from encodery.surgery.prune import StructuredPruning
from encodery.train.hooks.ema import EMA
from encodery.train.hooks.shrink import Shrink
from encodery.train.launch import resume, start
from encodery.train.optim import Optimizer
from encodery.train.recipe import Recipe
from encodery.train.resize import resize

Table = Callable[..., Recipe[Any]]
Losses = Callable[[Path], dict[int, float]]
SETTINGS = ModelSettings(width=32, depth=2, heads=4, intermediate_size=40, vocab_size=60, max_length=16)
SHRINKING: dict[str, Any] = {
    "model": {"width": 32, "depth": 2, "heads": 4, "intermediate_size": 64, "dropout": 0.1},
    "hooks": [{"is": "ema", "decay": 0.9}, {"is": "shrink", "at": 0.4, "keep_heads": 0.6}],
    "train": {"budget": "20steps", "checkpoint_every": "5steps", "evals": 2},
}


def model_with_gradients() -> nn.Module:
    model = build_model(SETTINGS, 1)
    model(Batch.from_sequences([[5, 9, 3, 7], [4, 2]])).hidden.square().sum().backward()
    return model


def test_shrinking_equals_the_surgery() -> None:
    model = build_model(SETTINGS, 1).eval()
    pruned = StructuredPruning(importance="magnitude").operate(LoadedModel(Path("model"), model), torch.Generator())
    parameters = list(model.parameters())
    shrink(model, best_units(magnitude_scores(model), 0.5, 0.5, 8, per_layer=False))
    assert model.settings == pruned.model.settings
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True)), "parameters are other objects"
    for name, tensor in pruned.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    batch = Batch.from_sequences([[5, 9, 3, 7], [4, 2]])
    assert torch.equal(model(batch).hidden, pruned.model(batch).hidden)


@pytest.mark.parametrize("optim", ["adamw", "muon", "lamb", "stable_adamw"])
def test_the_state_of_what_stays_is_kept(optim: str) -> None:
    module: Any = nn.ModuleDict({"model": model_with_gradients()})
    part = decode(Optimizer, {"is": optim, "lr": 0.01})
    optimizer, average = part.build(module), EMA().build(module)
    module.requires_grad_(True)
    optimizer.step()
    names = dict(module.named_parameters())
    before = {name: copy.deepcopy(optimizer.state.get(p, {})) for name, p in names.items()}
    averages = {name: tensor.clone() for name, tensor in average.state_tensors().items()}
    model = module["model"]
    kept = best_units(magnitude_scores(model), 0.5, 0.5, 8, per_layer=False)
    smaller = {f"model.{name}": selection for name, selection in selections(model, kept).items()}
    resize(module, kept, optimizer, [average])
    assert len(smaller) > 8
    for name, p in names.items():
        for key, value in optimizer.state.get(p, {}).items():
            old = before[name][key]
            expected = smaller[name].of(old) if name in smaller and old.dim() else old
            assert torch.equal(value, expected), f"{name}: {key}"
        expected = smaller[name].of(averages[name]) if name in smaller else averages[name]
        assert torch.equal(average.state_tensors()[name], expected)
    optimizer.zero_grad()
    model(Batch.from_sequences([[5, 9, 3, 7]])).hidden.square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("step", [6, 8, 9, 17])
def test_a_run_resumed_before_or_after_equals_an_uninterrupted_one(
    table: Table,
    losses: Losses,
    tmp_path: Path,
    power_cut: Callable[[int], AbstractContextManager[None]],
    step: int,
) -> None:
    recipe = table(**SHRINKING)
    start(recipe, tmp_path / "whole")
    with power_cut(step):
        start(recipe, tmp_path / "parted")
    assert resume(tmp_path / "parted").finished
    assert losses(tmp_path / "parted") == losses(tmp_path / "whole")
    ours, theirs = (read_tensors(tmp_path / name / "model/model.safetensors") for name in ("parted", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    shapes = load_model(tmp_path / "whole").model.settings.layer_shapes
    assert sum(shape.heads for shape in shapes) == 5
    assert sum(shape.intermediate_size for shape in shapes) in (64, 72)


@pytest.mark.parametrize("change", [{"compile": True, "static_shapes": True}, {"optimizer_offload": True}])
def test_other_executions_are_refused(table: Table, tmp_path: Path, change: dict[str, Any]) -> None:
    objective = {"is": "mlm", "corruption": {"is": "token", "fixed_predictions": True}}
    recipe = table(**{**SHRINKING, "objective": objective, "train": {**SHRINKING["train"], **change}})
    with pytest.raises(
        SettingsError, match="shrink makes the model smaller in the middle of a run, which needs one process"
    ):
        start(recipe, tmp_path / "run")


def test_what_cannot_shrink_is_refused() -> None:
    with pytest.raises(SettingsError, match="layer_groups: the layers share their weights"):
        Shrink().build(build_model(decode(ModelSettings, {"layer_groups": [0, 0, 1, 1], "vocab_size": 60})))
    module = build_model(SETTINGS, 1)
    module.encoder.blocks[0].register_forward_hook(lambda *args: None)
    with pytest.raises(SettingsError, match="layer 0: its modules were changed since it was built"):
        shrink(module, best_units(magnitude_scores(module), 0.5, 0.5, 8, per_layer=False))
