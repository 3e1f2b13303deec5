"""How masked language modelling is judged on held-out text, by every objective that trains its head.

Shapes: M masked tokens.
"""

from __future__ import annotations

import math

from encodery.model.network import Model
from encodery.model.ops.masked_cross_entropy.chunked import masked_cross_entropy
from encodery.model.shape import Batch, Output
from encodery.objectives._terms import LossTerm


def masked_token_terms(model: Model, batch: Batch, output: Output) -> dict[str, LossTerm]:
    """Return `loss`, the cross entropy in nats, and `accuracy` at the masked tokens of a batch, summed in fp64.

    `batch.extra` has `masked_positions` (M,) and `labels` (M,); `output` is what the model's head reads.
    """
    features = model.mlm_head.features(output.hidden[batch.extra["masked_positions"]])
    weight, bias = model.mlm_head.decoder(model.encoder)
    result = masked_cross_entropy(features, weight, bias, batch.extra["labels"])
    n = result.nll.numel()
    return {
        "loss": LossTerm(result.nll.double().sum(), n),
        "accuracy": LossTerm(result.correct.double().sum(), n, weight=0.0),
    }


def cross_entropy_metrics(loss: float, tokens_per_byte: float) -> dict[str, float]:
    """Return `bits_per_byte` and `perplexity` of a mean cross entropy in nats per token."""
    return {"bits_per_byte": loss / math.log(2) * tokens_per_byte, "perplexity": math.exp(min(loss, 100.0))}
