"""More or fewer layers: which layer each one comes from, and copies that add nothing at first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from encodery.model.network import Model
from encodery.model.settings import ModelSettings
from encodery.model.weights import Linear
from encodery.surgery._channels import BLOCK, State
from encodery.surgery._sizes import TOKEN_EMBEDDINGS

Order = Literal["stack", "repeat"]


def layer_sources(shallow: int, deep: int, order: Order) -> list[int]:
    """For each layer of the deeper model that of the shallower one it goes with. stack: 0 1 0 1; repeat: 0 0 1 1."""
    return [layer % shallow if order == "stack" else layer * shallow // deep for layer in range(deep)]


def deepen(state: State, origin: Sequence[int], settings: ModelSettings) -> dict[str, Tensor]:
    """Layer i is a copy of layer `origin[i]`. A norm that the origin leaves out (the first of layer 0, where embeddings
    are normalised already) starts as a fresh one."""
    found = {name: tensor for name, tensor in state.items() if not BLOCK.fullmatch(name)}
    for name, fresh in Model(settings).state_dict().items():
        match = BLOCK.fullmatch(name)
        if match is not None:
            source = state.get(f"{match[1]}{origin[int(match[2])]}.{match[3]}")
            found[name] = fresh.to(found[TOKEN_EMBEDDINGS].dtype) if source is None else source.clone()
    return found


def silence(state: State, layers: Sequence[int], settings: ModelSettings) -> dict[str, Tensor]:
    """The same, but that what these layers write into the residual stream is zero."""
    with torch.device("meta"):
        blocks = Model(settings).encoder.blocks
    found = dict(state)
    for layer in layers:
        for place, module in blocks[layer].named_modules():
            if isinstance(module, Linear) and module.role == "out":
                for name, _ in module.named_parameters(f"encoder.blocks.{layer}.{place}"):
                    found[name] = torch.zeros_like(found[name])
    return found


def average_layers(state: State, target: Sequence[int]) -> dict[str, Tensor]:
    """Layers with the same `target` become one, their mean."""
    groups: dict[str, list[Tensor]] = {}
    for name, tensor in state.items():
        match = BLOCK.fullmatch(name)
        groups.setdefault(f"{match[1]}{target[int(match[2])]}.{match[3]}" if match else name, []).append(tensor)
    return {name: torch.stack(tensors).mean(0) for name, tensors in groups.items()}


def drop_unused(state: Mapping[str, Tensor], settings: ModelSettings) -> dict[str, Tensor]:
    """Without the tensors that a model of these settings has no place for: the first norm of what is now layer 0."""
    with torch.device("meta"):
        own = Model(settings).state_dict()
    return {name: tensor for name, tensor in state.items() if name in own}
