"""A model that becomes smaller in the middle of a run, with the state of its optimiser and of the hooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from encodery.base.errors import SettingsError
from encodery.base.settings import decode, encode
from encodery.model.network import Model
from encodery.model.settings import ModelSettings
from encodery.model.units import KeptUnits, Selection, first_units, shrink
from encodery.train.hooks import RunningHook


def resize(module: nn.Module, kept: KeptUnits, optimizer: torch.optim.Optimizer, hooks: Sequence[RunningHook]) -> None:
    """Remove the other heads and units from the model in `module`, from the optimiser's state and from the hooks.

    Raises `SettingsError` for an optimiser whose state does not have the shape of the weights, and if there are several
    models in `module`.
    """
    smaller = shrink(_model(module), kept)
    for p, selection in smaller.items():
        _resize_state(optimizer.state.get(p, {}), p, selection)
    for hook in hooks:
        hook.resize(smaller)


def stored_sizes(module: nn.Module) -> list[Any]:
    """The sizes of the layers of the model in `module`, as JSON for a checkpoint; empty if they are equal."""
    models = [inner for inner in module.modules() if isinstance(inner, Model)]
    return list(encode(models[0].settings).get("layers", [])) if len(models) == 1 else []


def restore_sizes(
    module: nn.Module, sizes: Sequence[Any], optimizer: torch.optim.Optimizer, hooks: Sequence[RunningHook]
) -> None:
    """Give the layers of a new run the sizes that a checkpoint stored; their values are loaded afterwards."""
    if list(sizes) != stored_sizes(module):
        settings = _model(module).settings
        layers = decode(ModelSettings, {"depth": settings.depth, "layers": list(sizes)}).layers
        resize(module, first_units(layers, settings), optimizer, hooks)


def _model(module: nn.Module) -> Model:
    models = [inner for inner in module.modules() if isinstance(inner, Model)]
    if len(models) != 1:
        raise SettingsError(f"hooks: a run of {len(models)} models cannot be made smaller; it must be one.")
    return models[0]


def _resize_state(state: dict[str, Any], p: nn.Parameter, selection: Selection) -> None:
    """`p` is smaller already; `state` is of its old shape."""
    for key, value in state.items():
        if not isinstance(value, torch.Tensor) or value.dim() == 0:
            continue
        if value.dim() != p.dim() or int(selection.indices.max()) >= value.shape[selection.dim]:
            raise SettingsError(
                f"optim: the state '{key}' does not have the shape of the weights, so it cannot shrink."
            )
        state[key] = selection.of(value)
