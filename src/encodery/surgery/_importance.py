"""How much heads and intermediate units matter for the loss of masked tokens, measured on texts.

Shapes: T tokens, B sequences, N heads, D head size, I intermediate size, H width, M masked tokens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
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
from encodery.model.units import UnitScores, linears_of, normalised


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
    return UnitScores([normalised(own) for own in totals.heads], [normalised(own) for own in totals.units])


@contextlib.contextmanager
def _recorded(model: Model) -> Iterator[dict[tuple[int, str], Tensor]]:
    """Inside, what the last linear layer of each sublayer reads, with gradients, by layer and sublayer."""
    inputs: dict[tuple[int, str], Tensor] = {}
    handles = []
    for layer, block in enumerate(model.encoder.blocks):
        for sublayer, name in (("attention", "out"), ("ffn", "down")):
            linear = linears_of(block.get_submodule(sublayer)).get(name)
            if linear is not None:

                def record(module: nn.Module, args: tuple[Any, ...], key: tuple[int, str] = (layer, sublayer)) -> None:
                    inputs[key] = args[0]

                handles.append(linear.register_forward_pre_hook(record))
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()
