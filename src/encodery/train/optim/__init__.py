"""Optimisers: from gradients to new weights.

A part gives a `torch.optim.Optimizer` whose groups carry the parameters' names, the peak rate, and whether weight decay
applies: never to norms, biases, single numbers per channel (anything of one dimension) or tables of positions. The
loop sets the rate of each step with `set_rate`. State is kept as tensors by name (`state_tensors`, `load_state`), so a
checkpoint needs no pickle and a resumed run continues bit for bit.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from encodery.base.errors import CheckpointError, ContractError, SettingsError
from encodery.base.parts import Part
from encodery.model.positions import PositionsModule

Group = dict[str, Any]
Named = list[tuple[str, nn.Parameter]]
OFFLOADED = "offloaded"  # mark of a group whose moments wait in main memory (`train.optimizer_offload`)
LrScale = Callable[[str], float]
"""Name of a parameter -> what its rate is multiplied by, beside the schedule."""


def uniform_lr(name: str) -> float:
    """The same rate for all."""
    return 1.0


@dataclass(frozen=True, kw_only=True)
class Optimizer(Part):
    """Contract of an optimiser.

    `lr` is the peak rate, which a schedule multiplies. `weight_decay` is decoupled and multiplied by the rate, as in
    `torch`. `betas` are the decays of the means of gradient and squared gradient, `eps` guards the division.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        for name in ("lr", "eps"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"{name} = {getattr(self, name)}: must be more than 0.")
        if self.weight_decay < 0:
            raise SettingsError(f"weight_decay = {self.weight_decay}: must be at least 0.")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise SettingsError(f"betas = {self.betas}: each must lie in 0 <= beta < 1.")

    @abc.abstractmethod
    def build(self, module: nn.Module, lr_scale: LrScale = uniform_lr) -> torch.optim.Optimizer:
        """The optimiser of every parameter of `module` that wants a gradient, on the device where they are, each at its
        `pace`.

        Its state must consist of tensors.
        """

    def groups(self, parameters: Named, undecayed: set[int], lr_scale: LrScale = uniform_lr) -> list[Group]:
        """Groups for `torch.optim`, for each pace one with and one without decay (`undecayed` holds ids of parameters).

        Besides torch's keys a group has `peak`, the rate that `set_rate` multiplies, and `decayed`.
        """
        split: dict[tuple[float, bool], Named] = {}
        for name, p in parameters:
            split.setdefault((lr_scale(name), id(p) not in undecayed), []).append((name, p))
        return [
            {
                "params": split[factor, decayed],
                "lr": self.lr * factor,
                "peak_lr": self.lr * factor,
                "weight_decay": self.weight_decay if decayed else 0.0,
                "decayed": decayed,
            }
            for factor, decayed in sorted(split, reverse=True)
        ]


def trainable(module: nn.Module) -> Named:
    """Name and parameter of everything that wants a gradient; tied parameters once. Raises `SettingsError` for none."""
    found = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    if not found:
        raise SettingsError("There is nothing to train: no parameter wants a gradient.")
    return found


def without_decay(module: nn.Module) -> set[int]:
    """Ids of the parameters that weight decay spares: those of fewer than two dimensions and tables of positions."""
    spared = {id(p) for p in module.parameters() if p.ndim < 2}
    for inner in module.modules():
        if isinstance(inner, PositionsModule):
            spared |= {id(p) for p in inner.parameters()}
    return spared


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's rate to `factor` times its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


def state_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All state as tensors named `<parameter>:<what>`, and a JSON record of whose state it is.

    Settings and rates are not state: a run that goes on takes them from its recipe. Raises `ContractError` for an
    optimiser that keeps anything but tensors.
    """
    tensors: dict[str, Tensor] = {}
    for name, p in _by_name(optimizer).items():
        for key, value in optimizer.state.get(p, {}).items():
            if not isinstance(value, Tensor):
                raise ContractError(f"{type(optimizer).__name__} keeps {type(value).__name__} '{key}', not a tensor.")
            tensors[f"{name}:{key}"] = value.detach().contiguous()
    return tensors, {"optimizer": type(optimizer).__name__.lstrip("_"), "parameters": list(_by_name(optimizer))}


def load_state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Take back what `state_tensors` gave, copied. Raises `CheckpointError` if it is of another optimiser or model."""
    named = _by_name(optimizer)
    kind = type(optimizer).__name__.lstrip("_")
    if record["optimizer"] != kind:
        raise CheckpointError(f"The state is of {record['optimizer']}, the recipe asks for {kind}.")
    if record["parameters"] != list(named):
        other = sorted(set(named) ^ set(record["parameters"])) or ["their order"]
        raise CheckpointError(f"The optimiser's state is of other parameters; first difference: {other[0]}.")
    on_device = {id(p) for g in optimizer.param_groups if g.get("fused") or g.get("capturable") for p in g["params"]}
    at_home = {id(p) for g in optimizer.param_groups if g.get(OFFLOADED) for p in g["params"]}
    optimizer.state.clear()
    for full, tensor in tensors.items():
        name, _, key = full.rpartition(":")
        p = named[name]
        if key != "step" and tensor.shape != p.shape:
            raise CheckpointError(f"The state of '{name}' has the shape {list(tensor.shape)}, not {list(p.shape)}.")
        elsewhere = id(p) not in on_device if key == "step" else id(p) in at_home
        held = tensor.to("cpu" if elsewhere else p.device, copy=True)
        pinned = elsewhere and key != "step" and p.device.type == "cuda"
        optimizer.state[p][key] = held.pin_memory() if pinned else held


def _by_name(optimizer: torch.optim.Optimizer) -> dict[str, nn.Parameter]:
    return {name: p for g in optimizer.param_groups for name, p in zip(g["param_names"], g["params"], strict=True)}
