"""Where adaptations of single matrices go: linear layers of the blocks, by what they compute.

Queries, keys and values are row blocks of one fused layer, so a target is a layer and some of its rows.
Shapes: O rows (outputs) and I columns (inputs) of a layer.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from encodery.base.errors import SettingsError
from encodery.model.network import Model
from encodery.model.weights import Linear

Target = Literal["query", "key", "value", "out", "up", "down"]
LAYERS = (("attention", "qkv"), ("attention", "out"), ("ffn", "up"), ("ffn", "down"))
FUSED: dict[Target, int] = {"query": 0, "key": 1, "value": 2}


class LinearSite(NamedTuple):
    """A linear layer `owner.name`, and the rows [begin, end) of it that each target has."""

    owner: nn.Module
    name: str
    layer: Linear
    outputs: dict[Target, tuple[int, int]]


class AdaptedLinear(Linear):
    """A linear layer that computes with more than its weight; weight and bias keep their names and stand still."""

    def __init__(self, layer: Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.role = layer.in_features, layer.out_features, layer.role
        self.weight, self.bias = layer.weight, layer.bias

    @abc.abstractmethod
    def merged(self) -> tuple[Tensor, Tensor | None]:
        """The weight (O, I) and the bias (O,) of the plain layer that computes the same."""

    def to_linear(self) -> Linear:
        """That plain layer."""
        with torch.no_grad():
            weight, bias = self.merged()
            layer = Linear(self.in_features, self.out_features, bias=bias is not None, role=self.role)
            layer.weight = nn.Parameter(weight.detach().clone())
            if bias is not None:
                layer.bias = nn.Parameter(bias.detach().clone())
        return layer.train(self.training)


def find_sites(model: Model, targets: Sequence[Target], first_layer: int = 0) -> Iterator[LinearSite]:
    """The layers that hold `targets`, of the blocks from `first` on.

    Raises `SettingsError` for no or doubled targets, one that the model does not have, or one adapted already.
    """
    if not targets or len(set(targets)) < len(targets):
        raise SettingsError(f"targets = {tuple(targets)}: name at least one, each once.")
    blocks, shape = model.encoder.blocks, model.settings.shape
    if not 0 <= first_layer < len(blocks):
        raise SettingsError(f"first = {first_layer}: the model has {len(blocks)} layers, counted from 0.")
    for block in list(blocks)[first_layer:]:
        for room, name in LAYERS:
            mine = [target for target in targets if (target if target not in FUSED else "qkv") == name]
            if not mine:
                continue
            owner = getattr(block, room)
            layer = getattr(owner, name, None)
            if isinstance(layer, AdaptedLinear):
                raise SettingsError(f"targets = {tuple(targets)}: {mine[0]} is adapted already; once is all it can be.")
            size = shape.heads * shape.head_size
            if not isinstance(layer, Linear) or (name == "qkv" and layer.out_features != 3 * size):
                raise SettingsError(f"targets = {tuple(targets)}: {mine[0]} is no matrix of its own in this model.")
            whole = (0, layer.out_features)
            rows = {t: (FUSED[t] * size, FUSED[t] * size + size) if t in FUSED else whole for t in mine}
            yield LinearSite(owner, name, layer, rows)


def replace_linears(model: Model, found: Sequence[LinearSite], make: Callable[[LinearSite], AdaptedLinear]) -> None:
    """Freeze the model, then put `make(place)` in each place; what it adds learns."""
    model.requires_grad_(False)
    for place in found:
        setattr(place.owner, place.name, make(place).to(place.layer.weight.device).train(place.layer.training))


def merge_adapted(model: Model, kind: type[AdaptedLinear]) -> None:
    """Put plain layers back in place of every adapted one of `kind`."""
    for owner in list(model.modules()):
        for name, child in list(owner.named_children()):
            if isinstance(child, kind):
                setattr(owner, name, child.to_linear())
