"""The state of optimisers: as tensors by name for checkpoints, and the learning rate of each step.

State is kept as named tensors, so a checkpoint needs no pickle and a resumed run continues bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from encodery.base.errors import CheckpointError, ContractError

OFFLOADED = "offloaded"  # key of a parameter group whose state is in main memory (`train.optimizer_offload`)


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set the learning rate of every group to `factor` times its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


def state_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state as tensors named `<parameter>:<key>`, and a JSON record of the optimiser and its parameters.

    Settings and learning rates are not state: a resumed run takes them from its recipe. Raises `ContractError` for an
    optimiser whose state is not made of tensors.
    """
    tensors: dict[str, Tensor] = {}
    for name, p in _by_name(optimizer).items():
        for key, value in optimizer.state.get(p, {}).items():
            if not isinstance(value, Tensor):
                raise ContractError(f"{type(optimizer).__name__} keeps {type(value).__name__} '{key}', not a tensor.")
            tensors[f"{name}:{key}"] = value.detach().contiguous()
    return tensors, {"optimizer": type(optimizer).__name__.lstrip("_"), "parameters": list(_by_name(optimizer))}


def load_state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Load copies of what `state_tensors` returned. Raises `CheckpointError` if it belongs to another optimiser or
    model."""
    named = _by_name(optimizer)
    kind = type(optimizer).__name__.lstrip("_")
    if record["optimizer"] != kind:
        raise CheckpointError(f"The optimiser state is of {record['optimizer']}; the recipe uses {kind}.")
    if record["parameters"] != list(named):
        different = sorted(set(named) ^ set(record["parameters"])) or ["their order"]
        raise CheckpointError(f"The optimiser state is of other parameters; first difference: {different[0]}.")
    on_device = {id(p) for g in optimizer.param_groups if g.get("fused") or g.get("capturable") for p in g["params"]}
    on_host = {id(p) for g in optimizer.param_groups if g.get(OFFLOADED) for p in g["params"]}
    optimizer.state.clear()
    for full_name, tensor in tensors.items():
        name, _, key = full_name.rpartition(":")
        p = named[name]
        if key != "step" and tensor.shape != p.shape:
            raise CheckpointError(f"The state of '{name}' has the shape {list(tensor.shape)}, not {list(p.shape)}.")
        to_host = id(p) not in on_device if key == "step" else id(p) in on_host
        copy = tensor.to("cpu" if to_host else p.device, copy=True)
        pinned = to_host and key != "step" and p.device.type == "cuda"
        optimizer.state[p][key] = copy.pin_memory() if pinned else copy


def _by_name(optimizer: torch.optim.Optimizer) -> dict[str, nn.Parameter]:
    return {name: p for g in optimizer.param_groups for name, p in zip(g["param_names"], g["params"], strict=True)}
