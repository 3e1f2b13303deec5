"""Sizes of a model, and what each axis of each of its tensors counts.

The axes are found by building the model at twice each size, on no memory: so growth works for any part whose weights
are those of linear layers, tables and norms, whatever it is called. Several runs on one axis (queries, keys and values;
gate and value) lie one behind the other, heads as whole heads. Shapes: H width, N heads, D head size, I inner width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from encodery.base.errors import SettingsError
from encodery.model.load import LoadedModel
from encodery.model.network import Model
from encodery.model.settings import ModelSettings
from encodery.model.weights import EmbeddingTable, Linear

Size = Literal["width", "heads", "intermediate_size"]
TOKEN_EMBEDDINGS = "encoder.embeddings.word.weight"
SIZES: tuple[Size, ...] = ("width", "heads", "intermediate_size")


@dataclass(frozen=True)
class Axis:
    """Axis `dim` of a tensor: `runs` · (the size) · `unit` long. `summed`: a product sums over it (the inputs of a
    layer); otherwise each place on it is a channel of its own (the outputs, a bias, a norm)."""

    dim: int
    size: Size
    runs: int
    unit: int
    summed: bool

    def places(self, sources: Tensor, count: int) -> Tensor:
        """Where on this axis of a model with `count` channels those of `sources` (n,) lie: (runs · n · unit)."""
        starts = torch.arange(self.runs)[:, None, None] * count * self.unit
        return (starts + sources[None, :, None] * self.unit + torch.arange(self.unit)).flatten()


def axes(settings: ModelSettings, changing: Iterable[Size] = SIZES) -> dict[str, list[Axis]]:
    """The axes that follow the sizes `changing`, by the name of the tensor. Raises `SettingsError` for one of which it
    is not known how it follows."""
    shape = settings.shape
    fixed = dataclasses.replace(settings, head_size=shape.head_size, intermediate_size=shape.intermediate_size)
    model = _outline(fixed)
    summed = _summed(model)
    found: dict[str, list[Axis]] = {name: [] for name in model.state_dict()}
    for size in changing:
        unit = shape.head_size if size == "heads" else 1
        count = getattr(shape, size)
        doubled = _outline(dataclasses.replace(fixed, **{size: 2 * count})).state_dict()
        for name, tensor in model.state_dict().items():
            for dim, (before, after) in enumerate(zip(tensor.shape, doubled[name].shape, strict=True)):
                if before == after:
                    continue
                if after != 2 * before or before % (count * unit) or dim not in summed.get(name, {}):
                    raise SettingsError(f"model.{size} cannot change: {_reason(name)}")
                found[name].append(Axis(dim, size, before // (count * unit), unit, summed[name][dim]))
    return found


def resized_settings(
    loaded: LoadedModel, width: int | None, heads: int | None, inner: int | None, depth: int | None
) -> ModelSettings:
    """The settings of `loaded` with other sizes; heads and inner width follow the width where not given, the head size
    stays. Raises `SettingsError` for sizes that do not follow, and where something stands on the model."""
    settings, shape = loaded.model.settings, loaded.model.settings.shape
    if settings.extensions:
        raise SettingsError(f"{loaded.path}: has adapters or prompts in it; change the size of the model without them.")
    width = shape.width if width is None else width
    new = dataclasses.replace(
        settings,
        width=width,
        heads=_following("heads", shape.heads, width, shape.width) if heads is None else heads,
        head_size=shape.head_size,
        intermediate_size=_following("intermediate_size", shape.intermediate_size, width, shape.width)
        if inner is None
        else inner,
        depth=settings.depth if depth is None else depth,
    )
    if width != shape.width and loaded.modules():
        raise SettingsError(
            f"{loaded.path}: what stands on it ({', '.join(loaded.modules())}) is made for a width of {shape.width}; "
            "change the width of the encoder before it is trained for that."
        )
    if new.shape == shape:
        raise SettingsError("Nothing would change: give another width, heads, inner or depth.")
    return new


def check_larger(old: ModelSettings, new: ModelSettings) -> None:
    """Raises `SettingsError` naming the first size of `new` that is smaller than that of `old`."""
    for name in ("width", "heads", "intermediate_size", "depth"):
        before, after = getattr(old.shape, name), getattr(new.shape, name)
        if after < before:
            raise SettingsError(f"{name} = {after}: the model has {before} already; growing cannot make it smaller.")
    if not old.depth:
        raise SettingsError("depth: a model without layers has none to copy.")


def changed_sizes(old: ModelSettings, new: ModelSettings) -> tuple[dict[Size, int], dict[Size, int]]:
    """The sizes that differ, before and after."""
    sizes = [size for size in SIZES if getattr(old.shape, size) != getattr(new.shape, size)]
    return {size: getattr(old.shape, size) for size in sizes}, {size: getattr(new.shape, size) for size in sizes}


def size_metrics(old: Mapping[str, Tensor], model: Model) -> dict[str, int]:
    """Figures on a change of size: parameters before and after."""
    return {
        "depth": model.settings.depth,
        "width": model.settings.width,
        "parameters": sum(p.numel() for p in model.parameters()),
        "parameters_before": sum(tensor.numel() for tensor in old.values()),
    }


def _following(name: str, size: int, width: int, before: int) -> int:
    if size * width % before:
        raise SettingsError(f"width = {width}: {name} = {size} · {width} / {before} is no whole number; give {name}.")
    return size * width // before


def _reason(name: str) -> str:
    if name == TOKEN_EMBEDDINGS:
        return "the head has no transform, and a wider word table that it reads itself would say every score twice."
    return f"how '{name}' would follow is not known."


def _outline(settings: ModelSettings) -> Model:
    with torch.device("meta"):
        return Model(settings)


def _summed(model: Model) -> dict[str, dict[int, bool]]:
    """For each tensor, by dimension, whether a product sums over it."""
    found: dict[str, dict[int, bool]] = {}
    for place, module in model.named_modules():
        for name, p in module.named_parameters(place, recurse=False):
            if isinstance(module, Linear) and p.dim() == 2:
                found[name] = {0: False, 1: True}
            elif isinstance(module, EmbeddingTable):
                found[name] = {1: False}
            elif p.dim() == 1:
                found[name] = {0: False}
    return found | _read_twice(model)


def _read_twice(model: Model) -> dict[str, dict[int, bool]]:
    """A tied decoder sums over the axis that the word table makes, so the head's norm pays for both: its channels count
    as summed. Without a norm (a head without transform) it cannot be had: the word table's axis then counts as unknown.
    """
    if "mlm" not in model.heads or "decoder" in model.heads["mlm"]._modules:
        return {}
    norm = model.heads["mlm"]._modules.get("norm")
    if isinstance(norm, nn.Module):
        return {f"heads.mlm.norm.{name}": {0: True} for name, _ in norm.named_parameters()}
    return {TOKEN_EMBEDDINGS: {}}
