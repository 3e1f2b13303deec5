"""More or fewer layers: the source of each layer, and copies that at first add nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.model.count import meta_model
from encodery.model.network import Model
from encodery.model.settings import ModelSettings
from encodery.model.weights import LinearLayer
from encodery.surgery._channels import BLOCK, State
from encodery.surgery._sizes import TOKEN_EMBEDDINGS

Order = Literal["stack", "repeat"]


def layer_sources(shallow: int, deep: int, order: Order) -> list[int]:
    """Return the layer of the shallower model for each of the deeper one: 0 1 0 1 (stack) or 0 0 1 1 (repeat)."""
    return [layer % shallow if order == "stack" else layer * shallow // deep for layer in range(deep)]


def deepen(state: State, sources: Sequence[int], settings: ModelSettings) -> dict[str, Tensor]:
    """Make layer i a copy of layer `sources[i]`.

    A norm that the source does not have (the first of layer 0, if embeddings are normalised already) is a fresh one.
    Raises `SettingsError` if positions have weights for each layer.
    """
    if settings.positions.has_layer_weights:
        name = name_of(settings.positions)
        raise SettingsError(f"positions = '{name}': has weights for each layer, so the layers stay as they are.")
    deeper = {name: tensor for name, tensor in state.items() if not BLOCK.fullmatch(name)}
    for name, fresh in Model(settings).state_dict().items():
        match = BLOCK.fullmatch(name)
        if match is not None:
            source = state.get(f"{match[1]}{sources[int(match[2])]}.{match[3]}")
            deeper[name] = fresh.to(deeper[TOKEN_EMBEDDINGS].dtype) if source is None else source.clone()
    return deeper


def silence(state: State, layers: Sequence[int], settings: ModelSettings) -> dict[str, Tensor]:
    """Set to zero what these layers write into the residual stream."""
    blocks = meta_model(settings).encoder.blocks
    changed = dict(state)
    for layer in layers:
        for path, module in blocks[layer].named_modules():
            if isinstance(module, LinearLayer) and module.role == "out":
                for name, _ in module.named_parameters(f"encoder.blocks.{layer}.{path}"):
                    changed[name] = torch.zeros_like(changed[name])
    return changed


def average_layers(state: State, targets: Sequence[int]) -> dict[str, Tensor]:
    """Replace the layers with the same target by one, their mean."""
    groups: dict[str, list[Tensor]] = {}
    for name, tensor in state.items():
        match = BLOCK.fullmatch(name)
        groups.setdefault(f"{match[1]}{targets[int(match[2])]}.{match[3]}" if match else name, []).append(tensor)
    return {name: torch.stack(tensors).mean(0) for name, tensors in groups.items()}


def drop_unused(state: Mapping[str, Tensor], settings: ModelSettings) -> dict[str, Tensor]:
    """Drop the tensors that a model of these settings does not have: the first norm of what is now layer 0."""
    own = meta_model(settings).state_dict()
    return {name: tensor for name, tensor in state.items() if name in own}
