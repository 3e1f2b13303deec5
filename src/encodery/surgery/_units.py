"""Heads and intermediate units of a model: how much they matter, and the model without some of them.

Shapes: T tokens, B sequences, N heads, D head size, I intermediate size, H width, M masked tokens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encodery.base.errors import SettingsError
from encodery.corrupt import IGNORE_INDEX, Vocabulary
from encodery.corrupt.token import TokenMasking
from encodery.model.load import LoadedModel
from encodery.model.network import Model
from encodery.model.shape import Batch
from encodery.model.weights import LinearLayer


@dataclass(frozen=True)
class UnitScores:
    """For each layer, the importance of its heads (N,) and of its intermediate units (I,)."""

    heads: list[Tensor]
    units: list[Tensor]


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
            module = block.get_submodule(sublayer)
            linears = {name for name, inner in module.named_modules() if isinstance(inner, LinearLayer)}
            if linears and linears != set(names):
                raise SettingsError(
                    f"{sublayer}: layer {layer} has the linear layers {', '.join(sorted(linears))}; only a sublayer of "
                    f"{' and '.join(names)} can be pruned."
                )


def magnitude_scores(model: Model) -> UnitScores:
    """For a head or unit, the norm of the weights that compute it times the norm of those that use it."""
    scores = UnitScores([], [])
    for block, shape in zip(model.encoder.blocks, model.settings.layer_shapes, strict=True):
        attention, ffn = _linears(block.get_submodule("attention")), _linears(block.get_submodule("ffn"))
        heads, units = torch.zeros(shape.heads), torch.zeros(shape.intermediate_size)
        if shape.heads:
            inputs = attention["qkv"].weight.detach().view(3, shape.heads, -1).norm(dim=(0, 2))
            heads = inputs * attention["out"].weight.detach().view(-1, shape.heads, shape.head_size).norm(dim=(0, 2))
        if shape.intermediate_size:
            inputs = ffn["up"].weight.detach().view(-1, shape.intermediate_size, shape.width).norm(dim=(0, 2))
            units = inputs * ffn["down"].weight.detach().norm(dim=0)
        scores.heads.append(_normalised(heads))
        scores.units.append(_normalised(units))
    return scores


def taylor_scores(loaded: LoadedModel, batches: Sequence[Batch], generator: torch.Generator) -> UnitScores:
    """To first order, the change of the loss of masked tokens without a head or unit, on average over texts.

    Raises `SettingsError` for a model without a masked-language-model head, and if there are no batches.
    """
    model = loaded.model
    if "mlm" not in model.heads:
        raise SettingsError("importance = taylor: needs a masked-language-model head; use importance=magnitude.")
    if not batches:
        raise SettingsError("importance = taylor: needs texts (--texts or --tokens), or use importance=magnitude.")
    vocabulary, masking = Vocabulary.of(loaded.tokenizer), TokenMasking()
    shapes = model.settings.layer_shapes
    totals = UnitScores([torch.zeros(s.heads) for s in shapes], [torch.zeros(s.intermediate_size) for s in shapes])
    for batch in batches:
        corrupted = masking.apply(batch.ids, batch.cu_seqlens, vocabulary, generator, 0.0)
        masked = Batch(corrupted.ids, batch.cu_seqlens, batch.max_seqlen, batch.segment)
        with torch.enable_grad(), _recorded(model) as inputs:
            hidden = model(masked).hidden[corrupted.masked_positions]
            loss = F.cross_entropy(
                model.mlm_logits(hidden), corrupted.labels, ignore_index=IGNORE_INDEX, reduction="sum"
            )
            names, tensors = list(inputs), list(inputs.values())
            gradients = dict(zip(names, torch.autograd.grad(loss, tensors), strict=True))
        for (layer, sublayer), x in inputs.items():
            kind = totals.heads if sublayer == "attention" else totals.units
            effect = (x * gradients[layer, sublayer]).detach().view(batch.tokens, len(kind[layer]), -1).sum(-1)
            of_text = effect.new_zeros(len(batch), effect.shape[1]).index_add(0, batch.layout.sequence_ids, effect)
            kind[layer] += of_text.abs().sum(0)
    return UnitScores([_normalised(own) for own in totals.heads], [_normalised(own) for own in totals.units])


def select_units(state: dict[str, Tensor], model: Model, layer: int, heads: Tensor, units: Tensor) -> None:
    """Replace the tensors of a layer in `state` by those of the heads and units of these indices alone."""
    shape, prefix = model.settings.layer_shapes[layer], f"encoder.blocks.{layer}"
    channels = (heads[:, None] * shape.head_size + torch.arange(shape.head_size)).flatten()
    for before, after, kept, count in (
        ("attention.qkv", "attention.out", channels, shape.heads * shape.head_size),
        ("ffn.up", "ffn.down", units, shape.intermediate_size),
    ):
        if count:
            for name in (f"{prefix}.{before}.weight", f"{prefix}.{before}.bias"):
                if name in state:
                    tensor = state[name]
                    runs = tensor.view(-1, count, *tensor.shape[1:])
                    state[name] = runs[:, kept].flatten(0, 1).clone()
            state[f"{prefix}.{after}.weight"] = state[f"{prefix}.{after}.weight"][:, kept].clone()


@contextlib.contextmanager
def _recorded(model: Model) -> Iterator[dict[tuple[int, str], Tensor]]:
    """Inside, what the last linear layer of each sublayer reads, with gradients, by layer and sublayer."""
    inputs: dict[tuple[int, str], Tensor] = {}
    handles = []
    for layer, block in enumerate(model.encoder.blocks):
        for sublayer, name in (("attention", "out"), ("ffn", "down")):
            linear = _linears(block.get_submodule(sublayer)).get(name)
            if linear is not None:

                def record(module: nn.Module, args: tuple[Any, ...], key: tuple[int, str] = (layer, sublayer)) -> None:
                    inputs[key] = args[0]

                handles.append(linear.register_forward_pre_hook(record))
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


def _linears(module: nn.Module) -> dict[str, LinearLayer]:
    return {name: inner for name, inner in module.named_modules() if isinstance(inner, LinearLayer)}


def _normalised(scores: Tensor) -> Tensor:
    """Scores (n,) divided by the root of their sum of squares, so that layers can be compared."""
    norm: Tensor = scores.norm().clamp(min=torch.finfo(scores.dtype).tiny)
    return scores / norm
