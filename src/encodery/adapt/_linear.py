"""The linear layers of the blocks that an adaptation of single matrices can replace, by what they compute.

Queries, keys and values are computed by one fused layer, so a target is a layer and a range of its outputs.
Shapes: O outputs and I inputs of a layer.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

from torch import nn

from encodery.base.errors import SettingsError
from encodery.model.network import Model
from encodery.model.weights import Linear, ReplacedLinear

Target = Literal["query", "key", "value", "out", "up", "down"]
LAYERS = (("attention", "qkv"), ("attention", "out"), ("ffn", "up"), ("ffn", "down"))
FUSED: dict[Target, int] = {"query": 0, "key": 1, "value": 2}


class LinearSite(NamedTuple):
    """A linear layer `owner.name`, and the range [begin, end) of its outputs that belongs to each target."""

    owner: nn.Module
    name: str
    layer: Linear
    outputs: dict[Target, tuple[int, int]]


class AdaptedLinear(ReplacedLinear, abc.ABC):
    """A linear layer of which something besides the weight and the bias is trained; abstract. Both are frozen."""


def find_sites(model: Model, targets: Sequence[Target], first_layer: int = 0) -> Iterator[LinearSite]:
    """Yield the layers that compute `targets`, in the blocks from `first_layer` on.

    Raises `SettingsError` if no target is named or one twice, if a layer with that sublayer does not have it, or if it
    is adapted.
    """
    if not targets or len(set(targets)) < len(targets):
        raise SettingsError(f"targets = {tuple(targets)}: name at least one, each once.")
    blocks, shapes = model.encoder.blocks, model.settings.block_shapes
    if first_layer and model.encoder.shares_layers:
        raise SettingsError(f"first_layer = {first_layer}: this model's layers share weights; it must be 0.")
    if not 0 <= first_layer < len(blocks):
        raise SettingsError(f"first_layer = {first_layer}: the model has {len(blocks)} layers, counted from 0.")
    for shape, block in list(zip(shapes, blocks, strict=True))[first_layer:]:
        for sublayer, name in LAYERS:
            own_targets = [target for target in targets if (target if target not in FUSED else "qkv") == name]
            if not own_targets or not (shape.heads if sublayer == "attention" else shape.intermediate_size):
                continue
            owner = getattr(block, sublayer)
            layer = getattr(owner, name, None)
            if isinstance(layer, AdaptedLinear):
                raise SettingsError(
                    f"targets = {tuple(targets)}: {own_targets[0]} is adapted already, which is possible only once."
                )
            size = shape.heads * shape.head_size
            if not isinstance(layer, Linear) or (name == "qkv" and layer.out_features != 3 * size):
                raise SettingsError(f"targets = {tuple(targets)}: this model has no separate matrix {own_targets[0]}.")
            whole = (0, layer.out_features)
            outputs = {t: (FUSED[t] * size, FUSED[t] * size + size) if t in FUSED else whole for t in own_targets}
            yield LinearSite(owner, name, layer, outputs)


def replace_linears(model: Model, sites: Sequence[LinearSite], make: Callable[[LinearSite], AdaptedLinear]) -> None:
    """Freeze the model, then put `make(site)` at each site; the weights that it adds learn."""
    model.requires_grad_(False)
    for site in sites:
        setattr(site.owner, site.name, make(site).to(site.layer.weight.device).train(site.layer.training))


def merge_adapted(model: Model, kind: type[AdaptedLinear]) -> None:
    """Replace every adapted layer of `kind` by the plain one that computes the same."""
    for owner in list(model.modules()):
        for name, child in list(owner.named_children()):
            if isinstance(child, kind):
                setattr(owner, name, child.to_linear())
