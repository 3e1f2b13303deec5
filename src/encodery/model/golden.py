"""Golden vectors: what a model computed when it was saved, for a few short sequences, computed again at load.

They catch what checksums cannot: code that changed under old weights. In fp32 on the CPU, a few milliseconds.
Shapes: T tokens, B sequences, H width, M rows, C columns of the vocabulary.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from encodery.model.network import Model
from encodery.model.shape import Batch

LENGTHS = (1, 7, 16)
ROWS = 4
COLUMNS = 128
TOLERANCE = 2e-4
"""Allowed drift as a share of the largest value: other processors sum in another order."""
LOCAL_COST = 2e9
"""Floating-point operations that may be spent on showing a window at work."""


def golden_outputs(model: Model) -> dict[str, Tensor]:
    """ids (T,), cu_seqlens (B+1,), hidden (T, H); segment (T,) with segments; rows (M,) and logits (M, C) with head.

    `model` is in fp32 on the CPU.
    """
    batch = _batch(model)
    kept = {"ids": batch.ids, "cu_seqlens": batch.cu_seqlens}
    if batch.segment is not None:
        kept["segment"] = batch.segment
    if "mlm" in model.heads:
        kept["rows"] = torch.linspace(0, batch.tokens - 1, ROWS).long()
    return kept | _run(model, batch, kept.get("rows"))


def drift(model: Model, golden: dict[str, Tensor]) -> float:
    """The largest difference from what was computed then, as a share of the largest value."""
    cu = golden["cu_seqlens"]
    batch = Batch(golden["ids"], cu, int(cu.diff().max()), golden.get("segment"))
    return relative_difference(_run(model, batch, golden.get("rows")), golden)


def relative_difference(now: dict[str, Tensor], golden: dict[str, Tensor]) -> float:
    """The largest difference between equally named tensors, as a share of the largest value; never NaN."""
    worst = 0.0
    for name, value in now.items():
        scale = max(1.0, float(golden[name].abs().max()))
        share = float((value - golden[name]).abs().max()) / scale
        worst = max(worst, share if math.isfinite(share) else math.inf)
    return worst


def kept_columns(vocab: int) -> Tensor:
    """The ids (C,) whose logits are kept."""
    return torch.linspace(0, vocab - 1, min(COLUMNS, vocab)).long()


def _batch(model: Model) -> Batch:
    settings = model.settings
    lengths = [min(length, settings.max_length) for length in LENGTHS]
    windows = [settings.mask.window(layer, settings.depth) for layer in range(settings.depth)]
    reach = min((w for w in windows if w is not None), default=0) + 4
    parameters = sum(p.numel() for p in model.encoder.blocks.parameters())
    if lengths[-1] < reach <= settings.max_length and 2.0 * parameters * reach <= LOCAL_COST:
        lengths.append(reach)
    low = (
        settings.vocab_size // 2
    )  # special tokens come first; a padding token would move a RoBERTa's positions elsewhere
    ids = [low + (7919 * place + 104_729) % (settings.vocab_size - low) for place in range(sum(lengths))]
    segments = (
        [place // 3 % settings.type_vocab_size for place in range(len(ids))] if settings.type_vocab_size > 1 else None
    )
    cuts = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    spans = list(itertools.pairwise(cuts))
    return Batch.from_sequences(
        [ids[a:b] for a, b in spans], None if segments is None else [segments[a:b] for a, b in spans]
    )


@torch.inference_mode()
def _run(model: Model, batch: Batch, rows: Tensor | None) -> dict[str, Tensor]:
    training = model.training
    model.eval()
    hidden = model(batch).hidden
    model.train(training)
    found = {"hidden": hidden}
    if rows is not None:
        weight, bias = model.mlm_head.decoder(model.encoder)
        chosen = kept_columns(weight.shape[0])
        logits = model.mlm_head.features(hidden[rows]) @ weight[chosen].T
        found["logits"] = logits if bias is None else logits + bias[chosen]
    return found
