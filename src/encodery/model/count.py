"""Parameters, arithmetic and memory of a model, from its settings alone: nothing is allocated.

Shapes: T tokens, L length of a sequence, M predicted rows, V vocabulary, E embedding width.
"""

from __future__ import annotations

import functools

import torch
from torch import nn

from encodery.model.blocks import ActivationCheckpointing
from encodery.model.network import Model, ModelSettings
from encodery.model.weights import EmbeddingTable, Linear


def num_parameters(settings: ModelSettings, embeddings: bool = True) -> int:
    """Number of parameters, tied ones once; `tables` = False leaves embedding tables out."""
    model = _outline(settings)
    total = sum(p.numel() for p in model.parameters())
    if embeddings:
        return total
    return total - sum(m.weight.numel() for m in model.modules() if isinstance(m, EmbeddingTable))


@functools.lru_cache(maxsize=1024)
def flops_per_token(
    settings: ModelSettings,
    length: float,
    predicted_fraction: float = 0.15,
    backward: bool = True,
    early: tuple[int, float] = (0, 1.0),
) -> float:
    """Floating-point operations per token: two a multiply-add, in matrix products only; forward and backward.

    `length` is that of the sequences (of mixed ones: Σ L² / Σ L), `predicted` the share of tokens the head sees,
    `early` how many layers, from the first, see only such a share of the tokens.
    """
    model, shape = _outline(settings), settings.shape
    products = 2.0 * (_weights(model.encoder) - _weights(model.encoder.blocks))
    for layer, block in enumerate(model.encoder.blocks):
        share = early[1] if layer < early[0] else 1.0
        seen = _seen(length * share, settings.mask.window(layer, shape.depth))
        products += share * (2.0 * _weights(block) + 4.0 * shape.heads * shape.head_size * seen)
    if settings.head is not None:
        tied = shape.vocab_size * shape.embedding_size
        decoder = sum(isinstance(m, Linear) and m.out_features == shape.vocab_size for m in model.heads.modules())
        products += predicted_fraction * 2.0 * (_weights(model.heads) + (0 if decoder else tied))
    return products * (3.0 if backward else 1.0)


def activation_bytes(
    settings: ModelSettings,
    tokens: int,
    length: int,
    predicted_fraction: float = 0.15,
    itemsize: int = 4,
    activation_checkpointing: ActivationCheckpointing = "nothing",
) -> int:
    """Estimate of what a forward pass over `tokens` tokens keeps for the backward pass, in bytes.

    Includes attention weights, as the CPU keeps them for sequences up to 512; dropout masks are left out. What is
    recomputed keeps its input, and is whole in memory once, while one layer goes backward.
    """
    model, shape = _outline(settings), settings.shape
    row = once = 0
    for block in model.encoder.blocks:
        mixing, feeding = block.get_submodule("attention"), block.get_submodule("ffn")
        ffn, attention = _kept(feeding), _kept(mixing) + shape.heads * (length if length <= 512 else 1)
        rest = sum(_norm_size(m) for m in block.modules())
        for name, inner in (*mixing.named_modules(), *feeding.named_modules()):
            if isinstance(inner, Linear) and name.endswith("qkv"):
                attention += inner.out_features
            elif isinstance(inner, Linear) and name.endswith("up"):
                ffn += 2 * inner.out_features - shape.intermediate_size
        again = {"nothing": 0, "attention": attention, "ffn": ffn, "block": attention + ffn + rest}[
            activation_checkpointing
        ]
        row += attention + ffn + rest - again + (shape.width if again else 0)
        once = max(once, again)
    row += once
    row += _norm_size(model.encoder.embedding_norm) + _norm_size(model.encoder.final_norm)
    head = predicted_fraction * (shape.width + 3 * shape.embedding_size) if settings.head is not None else 0.0
    return int(tokens * (row + head) * itemsize)


def _outline(settings: ModelSettings) -> Model:
    with torch.device("meta"):
        return Model(settings)


def _weights(module: nn.Module) -> int:
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, Linear))


def _kept(module: nn.Module) -> int:
    """The inputs of the linear layers of a module, for a row."""
    return sum(m.in_features for m in module.modules() if isinstance(m, Linear))


def _norm_size(module: nn.Module) -> int:
    """What a norm keeps of a row: its input. Zero for other modules."""
    weight = getattr(module, "weight", None)
    return weight.numel() if isinstance(weight, torch.Tensor) and weight.dim() == 1 else 0


def _seen(length: float, window: int | None) -> float:
    """Tokens a token sees, on average over its sequence."""
    if window is None or window >= length - 1:
        return length
    return 2 * window + 1 - window * (window + 1) / length
