"""The parameter groups of an optimiser: what is trained, at which learning rate, with or without weight decay."""

from __future__ import annotations

from typing import Any

from torch import nn

from encodery.base.errors import SettingsError
from encodery.model.positions import PositionsModule
from encodery.train.optim import LrScale, Optimizer, uniform_lr

Group = dict[str, Any]
NamedParameters = list[tuple[str, nn.Parameter]]


def parameter_groups(
    optim: Optimizer, parameters: NamedParameters, undecayed: set[int], lr_scale: LrScale = uniform_lr
) -> list[Group]:
    """Groups for `torch.optim`: for each learning rate one with and one without weight decay; `undecayed` holds ids.

    Besides torch's keys a group has `peak_lr`, the learning rate that schedules multiply, and `decayed`.
    """
    split: dict[tuple[float, bool], NamedParameters] = {}
    for name, p in parameters:
        split.setdefault((lr_scale(name), id(p) not in undecayed), []).append((name, p))
    return [
        {
            "params": split[factor, decayed],
            "lr": optim.lr * factor,
            "peak_lr": optim.lr * factor,
            "weight_decay": optim.weight_decay if decayed else 0.0,
            "decayed": decayed,
        }
        for factor, decayed in sorted(split, reverse=True)
    ]


def trainable(module: nn.Module) -> NamedParameters:
    """Names and parameters that require a gradient; tied parameters once. Raises `SettingsError` if there are none."""
    parameters = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    if not parameters:
        raise SettingsError("There is nothing to train: no parameter requires a gradient.")
    return parameters


def without_decay(module: nn.Module) -> set[int]:
    """Ids of the parameters without weight decay: those of fewer than two dimensions (norms, biases, single numbers per
    channel) and position embeddings."""
    undecayed = {id(p) for p in module.parameters() if p.ndim < 2}
    for inner in module.modules():
        if isinstance(inner, PositionsModule):
            undecayed |= {id(p) for p in inner.parameters()}
    return undecayed
