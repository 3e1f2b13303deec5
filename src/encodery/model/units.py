"""Heads and intermediate units of a model: how much they matter, and the model without some of them.

Shapes: N heads, D head size, I intermediate size, H width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from encodery.base.errors import SettingsError
from encodery.model.blocks import BlockModule
from encodery.model.layer_sizes import LayerSizes
from encodery.model.network import Model
from encodery.model.settings import ModelSettings
from encodery.model.weights import LinearLayer


@dataclass(frozen=True)
class UnitScores:
    """For each layer, the importance of its heads (N,) and of its intermediate units (I,)."""

    heads: list[Tensor]
    units: list[Tensor]


@dataclass(frozen=True)
class KeptUnits:
    """For each layer, the indices of the heads and of the intermediate units that stay, in ascending order."""

    heads: list[Tensor]
    units: list[Tensor]


class Selection(NamedTuple):
    """The `indices` on dimension `dim` of a tensor that stay."""

    dim: int
    indices: Tensor

    def of(self, tensor: Tensor) -> Tensor:
        """The smaller tensor, a copy."""
        return tensor.index_select(self.dim, self.indices.to(tensor.device))


def check_units(model: Model) -> None:
    """Raise `SettingsError` unless single heads and units of the model can be removed."""
    settings = model.settings
    if settings.extensions:
        raise SettingsError("extensions: the model has adapters or prompts; prune it without them.")
    if settings.decoder is not None:
        raise SettingsError("decoder: an encoder–decoder cannot be pruned without its decoder.")
    if settings.layer_groups:
        raise SettingsError("layer_groups: the layers share their weights, so no single head or unit can be removed.")
    if "bias" in settings.positions.kinds:
        raise SettingsError("positions: their biases depend on the number of heads, so no single head can be removed.")
    for layer, block in enumerate(model.encoder.blocks):
        for sublayer, names in (("attention", ("qkv", "out")), ("ffn", ("up", "down"))):
            linears = linears_of(block.get_submodule(sublayer))
            if linears and set(linears) != set(names):
                raise SettingsError(
                    f"{sublayer}: layer {layer} has the linear layers {', '.join(sorted(linears))}; only a sublayer of "
                    f"{' and '.join(names)} can be pruned."
                )


def magnitude_scores(model: Model) -> UnitScores:
    """For a head or unit, the norm of the weights that compute it times the norm of those that use it."""
    scores = UnitScores([], [])
    for block, shape in zip(model.encoder.blocks, model.settings.layer_shapes, strict=True):
        attention, ffn = linears_of(block.get_submodule("attention")), linears_of(block.get_submodule("ffn"))
        heads, units = torch.zeros(shape.heads), torch.zeros(shape.intermediate_size)
        if shape.heads:
            inputs = attention["qkv"].weight.detach().view(3, shape.heads, -1).norm(dim=(0, 2))
            heads = inputs * attention["out"].weight.detach().view(-1, shape.heads, shape.head_size).norm(dim=(0, 2))
        if shape.intermediate_size:
            inputs = ffn["up"].weight.detach().view(-1, shape.intermediate_size, shape.width).norm(dim=(0, 2))
            units = inputs * ffn["down"].weight.detach().norm(dim=0)
        scores.heads.append(normalised(heads.cpu()))
        scores.units.append(normalised(units.cpu()))
    return scores


def best_units(
    scores: UnitScores, keep_heads: float, keep_intermediate: float, multiple_of: int, per_layer: bool
) -> KeptUnits:
    """The heads and units with the highest scores, as fractions of all.

    Args:
        scores: Their importance.
        keep_heads: Fraction of the heads that stay; every layer that has heads keeps one.
        keep_intermediate: Fraction of the intermediate units that stay.
        multiple_of: Their number in a layer is rounded up to a multiple of it.
        per_layer: Whether every layer keeps the same fraction; otherwise layers compete.
    """
    return KeptUnits(
        _best(scores.heads, keep_heads, 1, per_layer), _best(scores.units, keep_intermediate, multiple_of, per_layer)
    )


def first_units(layers: Sequence[LayerSizes], settings: ModelSettings) -> KeptUnits:
    """The first heads and units of each layer, as many as `layers` says. Raises `SettingsError` if there are fewer."""
    kept = KeptUnits([], [])
    for own, shape in zip(layers, settings.layer_shapes, strict=True):
        heads = shape.heads if own.heads is None else own.heads
        units = shape.intermediate_size if own.intermediate_size is None else own.intermediate_size
        if heads > shape.heads or units > shape.intermediate_size:
            raise SettingsError(f"layer {shape.layer}: has {shape.heads} heads and {shape.intermediate_size} units.")
        kept.heads.append(torch.arange(heads))
        kept.units.append(torch.arange(units))
    return kept


def smaller_settings(settings: ModelSettings, kept: KeptUnits) -> ModelSettings:
    """The settings of the model without the other heads and units."""
    sizes = (
        LayerSizes(heads=len(heads), intermediate_size=len(units))
        for heads, units in zip(kept.heads, kept.units, strict=True)
    )
    return dataclasses.replace(settings, head_size=settings.shape.head_size, layers=tuple(sizes))


def selections(model: Model, kept: KeptUnits) -> dict[str, Selection]:
    """What stays of each tensor that becomes smaller, by its name in the model."""
    names, smaller = set(model.state_dict()), {}
    for shape, heads, units in zip(model.settings.layer_shapes, kept.heads, kept.units, strict=True):
        size, prefix = shape.head_size, f"encoder.blocks.{shape.layer}"
        channels = (heads[:, None] * size + torch.arange(size)).flatten()
        for before, after, indices, count in (
            ("attention.qkv", "attention.out", channels, shape.heads * size),
            ("ffn.up", "ffn.down", units, shape.intermediate_size),
        ):
            if not count:
                continue
            module = model.get_submodule(f"{prefix}.{before}")
            assert isinstance(module, LinearLayer)
            runs = torch.arange(module.out_features // count)[:, None] * count
            for end in ("weight", "bias"):
                if f"{prefix}.{before}.{end}" in names:
                    smaller[f"{prefix}.{before}.{end}"] = Selection(0, (runs + indices).flatten())
            smaller[f"{prefix}.{after}.weight"] = Selection(1, indices)
    return smaller


def shrink(model: Model, kept: KeptUnits) -> dict[nn.Parameter, Selection]:
    """Remove the other heads and units from a model in place; parameters stay the same objects.

    Returns what stayed of each parameter that became smaller. Raises `SettingsError` for a model whose layers are not
    those of its settings alone, such as adapted ones.
    """
    check_units(model)
    smaller, parameters = selections(model, kept), dict(model.named_parameters())
    with torch.device("meta"):
        target = Model(smaller_settings(model.settings, kept))
    for (layer, old), new in zip(enumerate(model.encoder.blocks), target.encoder.blocks, strict=True):
        assert isinstance(old, BlockModule)
        assert isinstance(new, BlockModule)
        own = dict(old.named_parameters())
        if own.keys() != dict(new.named_parameters()).keys() or _has_hooks(old):
            raise SettingsError(f"layer {layer}: its modules were changed since it was built, so it cannot shrink.")
        new.activation_checkpointing = old.activation_checkpointing
        for name, p in own.items():
            path, _, leaf = name.rpartition(".")
            new.get_submodule(path)._parameters[leaf] = p
        model.encoder.blocks[layer] = new.train(old.training)
    for name, selection in smaller.items():
        parameters[name].grad = None
        parameters[name].data = selection.of(parameters[name].data)
    model.settings = target.settings
    return {parameters[name]: selection for name, selection in smaller.items()}


def linears_of(module: nn.Module) -> dict[str, LinearLayer]:
    """The linear layers of a sublayer, by name."""
    return {name: inner for name, inner in module.named_modules() if isinstance(inner, LinearLayer)}


def normalised(scores: Tensor) -> Tensor:
    """Scores (n,) divided by the root of their sum of squares, so that layers can be compared."""
    norm: Tensor = scores.norm().clamp(min=torch.finfo(scores.dtype).tiny)
    return scores / norm


def _best(scores: Sequence[Tensor], fraction: float, multiple_of: int, per_layer: bool) -> list[Tensor]:
    if per_layer:
        counts = [round(fraction * len(own)) for own in scores]
    else:
        everything = torch.cat(list(scores))
        layers = torch.arange(len(scores)).repeat_interleave(torch.tensor([len(own) for own in scores]))
        best = everything.argsort(descending=True, stable=True)[: round(fraction * len(everything))]
        counts = layers[best].bincount(minlength=len(scores)).tolist()
    kept = []
    for own, count in zip(scores, counts, strict=True):
        rounded = min(max(-(-count // multiple_of), 1) * multiple_of, len(own))  # 0 of an absent sublayer
        kept.append(own.argsort(descending=True, stable=True)[:rounded].sort().values)
    return kept


def _has_hooks(block: nn.Module) -> bool:
    return any(module._forward_hooks or module._forward_pre_hooks for module in block.modules())
