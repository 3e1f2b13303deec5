"""Sizes of a model, and what each axis of each of its tensors counts.

The axes are found by building the model at twice each size, without memory: so growth works for any part whose weights
belong to linear layers, embeddings and norms. Several runs on one axis (queries, keys and values; gate and value)
follow one another, heads as whole heads. Shapes: H width, N heads, D head size, I intermediate size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from encodery.base.errors import SettingsError
from encodery.model.count import meta_model
from encodery.model.load import LoadedModel
from encodery.model.network import Model
from encodery.model.settings import ModelSettings
from encodery.model.weights import EmbeddingTable, LinearLayer

Size = Literal["width", "heads", "intermediate_size"]
TOKEN_EMBEDDINGS = "encoder.embeddings.word.weight"
SIZES: tuple[Size, ...] = ("width", "heads", "intermediate_size")


@dataclass(frozen=True)
class Axis:
    """Axis `dim` of a tensor, of length `runs` · (the size) · `unit`. `summed`: a product sums over it (the inputs of a
    layer); otherwise each index on it is a separate channel (the outputs, a bias, a norm)."""

    dim: int
    size: Size
    runs: int
    unit: int
    summed: bool

    def indices(self, sources: Tensor, count: int) -> Tensor:
        """Return where the channels `sources` (n,) are on this axis of a model with `count`: (runs · n · unit,)."""
        starts = torch.arange(self.runs)[:, None, None] * count * self.unit
        return (starts + sources[None, :, None] * self.unit + torch.arange(self.unit)).flatten()


def axes(settings: ModelSettings, changing: Iterable[Size] = SIZES) -> dict[str, list[Axis]]:
    """Return the axes that depend on the sizes `changing`, by name of the tensor.

    Raises `SettingsError` for an axis whose dependence is unknown.
    """
    shape = settings.shape
    fixed = dataclasses.replace(settings, head_size=shape.head_size, intermediate_size=shape.intermediate_size)
    model = meta_model(fixed)
    summed = _summed_dims(model)
    axes_of: dict[str, list[Axis]] = {name: [] for name in model.state_dict()}
    for size in changing:
        unit = shape.head_size if size == "heads" else 1
        count = getattr(shape, size)
        doubled = meta_model(dataclasses.replace(fixed, **{size: 2 * count})).state_dict()
        for name, tensor in model.state_dict().items():
            for dim, (before, after) in enumerate(zip(tensor.shape, doubled[name].shape, strict=True)):
                if before == after:
                    continue
                if after != 2 * before or before % (count * unit) or dim not in summed.get(name, {}):
                    raise SettingsError(f"model.{size} cannot change: {_reason(name)}")
                axes_of[name].append(Axis(dim, size, before // (count * unit), unit, summed[name][dim]))
    return axes_of


def resized_settings(
    loaded: LoadedModel, width: int | None, heads: int | None, intermediate_size: int | None, depth: int | None
) -> ModelSettings:
    """Return the settings of `loaded` with other sizes.

    Heads and intermediate size are scaled with the width unless given; the head size stays. Raises `SettingsError` for
    sizes that do not scale to whole numbers, or if modules are stored with the model that fit only its width.
    """
    settings, shape = loaded.model.settings, loaded.model.settings.shape
    if settings.extensions:
        raise SettingsError(f"{loaded.path}: has adapters or prompts; change the size of the model without them.")
    if settings.decoder is not None:
        raise SettingsError(f"{loaded.path}: has a decoder, whose size cannot be changed.")
    if settings.layers:
        raise SettingsError(
            f"{loaded.path}: its layers have different sizes (model.layers), so its size cannot be changed as a whole. "
            "Only a model of equal layers can be made larger or smaller this way."
        )
    if settings.layer_groups and depth not in (None, settings.depth):
        raise SettingsError(f"{loaded.path}: its layers share weights (layer_groups), so their number stays the same.")
    width = shape.width if width is None else width
    if heads is None:
        heads = _scaled("heads", shape.heads, width, shape.width)
    if intermediate_size is None:
        intermediate_size = _scaled("intermediate_size", shape.intermediate_size, width, shape.width)
    new = dataclasses.replace(
        settings,
        width=width,
        heads=heads,
        head_size=shape.head_size,
        intermediate_size=intermediate_size,
        depth=settings.depth if depth is None else depth,
    )
    if width != shape.width and loaded.modules():
        raise SettingsError(
            f"{loaded.path}: {', '.join(loaded.modules())}, stored with the model, need a width of {shape.width}; "
            "change the width of the encoder before it is fine-tuned."
        )
    if new.shape == shape:
        raise SettingsError("Nothing would change: give another width, heads, intermediate_size or depth.")
    return new


def check_larger(old: ModelSettings, new: ModelSettings) -> None:
    """Raise `SettingsError` that names the first size of `new` which is smaller than that of `old`."""
    for name in (*SIZES, "depth"):
        before, after = getattr(old.shape, name), getattr(new.shape, name)
        if after < before:
            raise SettingsError(f"{name} = {after}: the model has {before} already; growing cannot make it smaller.")
    if not old.depth:
        raise SettingsError("depth: a model without layers has none to copy.")


def changed_sizes(old: ModelSettings, new: ModelSettings) -> tuple[dict[Size, int], dict[Size, int]]:
    """Return the sizes that differ, before and after."""
    sizes = [size for size in SIZES if getattr(old.shape, size) != getattr(new.shape, size)]
    return {size: getattr(old.shape, size) for size in sizes}, {size: getattr(new.shape, size) for size in sizes}


def size_metrics(old: Mapping[str, Tensor], model: Model) -> dict[str, int]:
    """Return the sizes of a model, and its number of parameters before and after."""
    return {
        "depth": model.settings.depth,
        "width": model.settings.width,
        "parameters": sum(p.numel() for p in model.parameters()),
        "parameters_before": sum(tensor.numel() for tensor in old.values()),
    }


def _scaled(name: str, size: int, width: int, before: int) -> int:
    if size * width % before:
        raise SettingsError(f"width = {width}: {name} = {size} · {width} / {before} is no whole number; give {name}.")
    return size * width // before


def _reason(name: str) -> str:
    if name == TOKEN_EMBEDDINGS:
        return "the head has no transform, and wider token embeddings that it uses directly would double every logit."
    return f"how '{name}' depends on it is not known."


def _summed_dims(model: Model) -> dict[str, dict[int, bool]]:
    """For each tensor, by dimension, whether a product sums over it."""
    dims: dict[str, dict[int, bool]] = {}
    for path, module in model.named_modules():
        for name, p in module.named_parameters(path, recurse=False):
            if isinstance(module, LinearLayer) and p.dim() == 2:
                dims[name] = {0: False, 1: True}
            elif isinstance(module, EmbeddingTable):
                dims[name] = {1: False}
            elif p.dim() == 1:
                dims[name] = {0: False}
    return dims | _tied_dims(model)


def _tied_dims(model: Model) -> dict[str, dict[int, bool]]:
    """What a tied decoder changes: it sums over the axis that the token embeddings produce.

    The norm of the head compensates for both uses: its channels count as summed. Without a norm (a head without
    transform) that is impossible, and the axis of the token embeddings counts as unknown.
    """
    if "mlm" not in model.heads or "decoder" in model.heads["mlm"]._modules:
        return {}
    norm = model.heads["mlm"]._modules.get("norm")
    if isinstance(norm, nn.Module):
        return {f"heads.mlm.norm.{name}": {0: True} for name, _ in norm.named_parameters()}
    return {TOKEN_EMBEDDINGS: {}}
