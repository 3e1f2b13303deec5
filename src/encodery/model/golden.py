"""Golden outputs: what a model computed for a few short sequences when it was saved, computed again at load.

They detect what checksums cannot: code that computes something else with the same weights. They take a few
milliseconds, in fp32 on the CPU.
Shapes: T tokens, B sequences, H width, M positions, C columns of the vocabulary.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable

import torch
from torch import Tensor

from encodery.base.parts import name_of
from encodery.model.network import Model
from encodery.model.shape import Batch

LENGTHS = (1, 7, 16)
POSITIONS = 4
COLUMNS = 128
SCORES = "scores."
"""Start of the names of the outputs of extra heads."""
TOLERANCE = 2e-4
"""Allowed drift, relative to the largest value: other processors add in another order."""
MAX_WINDOW_FLOPS = 2e9
"""Floating-point operations that may be spent on a sequence longer than the smallest window."""


def golden_outputs(model: Model) -> dict[str, Tensor]:
    """Return golden inputs and outputs of a model, which is in fp32 on the CPU.

    ids (T,), cu_seqlens (B+1,), hidden (T, H); segment (T,) for a model with segments; positions (M,) and logits (M, C)
    for a model with a head; decoded (T, H) for a model with a decoder, which reads the encoder's output for the inputs;
    "scores.NAME", (T,) or (B, C), for each extra head.
    """
    batch = _batch(model)
    inputs = {"ids": batch.ids, "cu_seqlens": batch.cu_seqlens}
    if batch.segment is not None:
        inputs["segment"] = batch.segment
    if "mlm" in model.heads:
        inputs["positions"] = torch.linspace(0, batch.tokens - 1, POSITIONS).long()
    heads = [f"{SCORES}{name_of(head)}" for head in model.settings.extra_heads]
    return inputs | _run(model, batch, inputs.get("positions"), heads)


def drift(model: Model, golden: dict[str, Tensor]) -> float:
    """Return the largest difference of the model's outputs from the golden ones, relative to the largest value."""
    cu = golden["cu_seqlens"]
    batch = Batch(golden["ids"], cu, int(cu.diff().max()), golden.get("segment"))
    heads = [name for name in golden if name.startswith(SCORES)]
    return relative_difference(_run(model, batch, golden.get("positions"), heads), golden)


def relative_difference(outputs: dict[str, Tensor], golden: dict[str, Tensor]) -> float:
    """Return the largest difference between tensors of the same name, relative to the largest value; never NaN."""
    worst = 0.0
    for name, value in outputs.items():
        scale = max(1.0, float(golden[name].abs().max()))
        difference = float((value - golden[name]).abs().max()) / scale
        worst = max(worst, difference if math.isfinite(difference) else math.inf)
    return worst


def kept_columns(vocab_size: int) -> Tensor:
    """Return the ids (C,) whose logits are kept."""
    return torch.linspace(0, vocab_size - 1, min(COLUMNS, vocab_size)).long()


def _batch(model: Model) -> Batch:
    settings = model.settings
    lengths = [min(length, settings.max_length) for length in LENGTHS]
    reaches = [settings.mask.reach(layer, settings.depth) for layer in range(settings.depth)]
    limits = [r.left + r.sinks for r in reaches if r.left is not None] + [r.right for r in reaches if r.right]
    longer = min(limits, default=0) + 4
    parameters = sum(p.numel() for p in model.encoder.blocks.parameters())
    if lengths[-1] < longer <= settings.max_length and 2.0 * parameters * longer <= MAX_WINDOW_FLOPS:
        lengths.append(longer)
    vocab_size, num_segments = settings.vocab_size, settings.type_vocab_size
    low = vocab_size // 2  # Special tokens come first; a padding token would change the positions of a RoBERTa.
    ids = [low + (7919 * i + 104_729) % (vocab_size - low) for i in range(sum(lengths))]
    segments = [i // 3 % num_segments for i in range(len(ids))] if num_segments > 1 else None
    spans = list(itertools.pairwise(itertools.accumulate(lengths, initial=0)))
    return Batch.from_sequences(
        [ids[a:b] for a, b in spans], None if segments is None else [segments[a:b] for a, b in spans]
    )


@torch.inference_mode()
def _run(model: Model, batch: Batch, positions: Tensor | None, heads: Iterable[str]) -> dict[str, Tensor]:
    training = model.training
    model.eval()
    hidden = model(batch).hidden
    outputs = {"hidden": hidden}
    if model.decoder is not None:
        outputs["decoded"] = model(dataclasses.replace(batch, memory=batch)).hidden
    for name in heads:
        outputs[name] = model.extra_head(name.removeprefix(SCORES))(hidden, batch.layout)
    model.train(training)
    if positions is not None:
        weight, bias = model.mlm_head.decoder(model.encoder)
        columns = kept_columns(weight.shape[0])
        logits = model.mlm_head.features(hidden[positions]) @ weight[columns].T
        outputs["logits"] = logits if bias is None else logits + bias[columns]
    return outputs
