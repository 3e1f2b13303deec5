"""Parameters, floating-point operations and memory of a model, from its settings alone: nothing is allocated.

Shapes: T tokens, L length of a sequence, V vocabulary, E embedding size.
"""

from __future__ import annotations

import functools

import torch
from torch import nn

from encodery.model.blocks import ActivationCheckpointing
from encodery.model.cost import Cost
from encodery.model.memory import CrossAttention
from encodery.model.network import Model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Shape
from encodery.model.weights import EmbeddingTable, Linear


def num_parameters(settings: ModelSettings, embeddings: bool = True) -> int:
    """Return the number of parameters, counting tied ones once; `embeddings`: whether embedding tables count."""
    model = meta_model(settings)
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
    """Return the floating-point operations per token: two per multiply-add, in matrix products only.

    Args:
        settings: The model.
        length: Length of the sequences (Σ L² / Σ L if they differ).
        predicted_fraction: Fraction of the tokens that the head predicts.
        backward: Whether the backward pass is included.
        early: (n, fraction): the first n layers work on that fraction of the tokens only.
    """
    model, shape = meta_model(settings), settings.shape
    outside = _weights(model.encoder) - _weights(model.encoder.blocks) - _weights(model.encoder.positions)
    products = 2.0 * outside
    for layer, (layer_shape, block) in enumerate(zip(settings.layer_shapes, model.encoder.layer_blocks, strict=True)):
        fraction = early[1] if layer < early[0] else 1.0
        attention, ffn = _sublayer_costs(settings, layer_shape, length * fraction)
        products += fraction * (attention.flops + ffn.flops + 2.0 * _weights_besides_sublayers(block))
    if settings.head is not None:
        head = next(iter(model.heads.values()))
        tied = shape.vocab_size * shape.embedding_size
        decoder = any(isinstance(m, Linear) and m.out_features == shape.vocab_size for m in head.modules())
        products += predicted_fraction * 2.0 * (_weights(head) + (0 if decoder else tied))
    extra = list(model.heads.values())[0 if settings.head is None else 1 :]
    products += sum(
        part.fraction(length) * 2.0 * _weights(head) for part, head in zip(settings.extra_heads, extra, strict=True)
    )
    return products * (3.0 if backward else 1.0)


def decoder_flops_per_token(settings: ModelSettings, length: float, memory: float, backward: bool = True) -> float:
    """Return the floating-point operations of the decoder per token that it reads, its head at all of them included.

    Args:
        settings: A model with a decoder.
        length: Length of the sequences that the decoder reads.
        memory: Length of their memories by that of the sequences.
        backward: Whether the backward pass is included.
    """
    model, shape = meta_model(settings), settings.shape
    assert settings.decoder is not None
    assert model.decoder is not None
    products = 0.0
    for layer_shape, block in zip(settings.decoder.layer_shapes(shape), model.decoder.blocks, strict=True):
        products += sum(cost.flops for cost in _sublayer_costs(settings, layer_shape, length))
        cross = block.get_submodule("cross_attention") if settings.decoder.memory else None
        if isinstance(cross, CrossAttention):
            inner = shape.heads * shape.head_size
            own, read = cross.query.weight.numel() + cross.out.weight.numel(), cross.key_value.weight.numel()
            products += 2.0 * (own + memory * read) + 4.0 * inner * memory * length
    if model.decoder.head is not None:
        products += 2.0 * (_weights(model.decoder.head) + shape.vocab_size * shape.embedding_size)
    return products * (3.0 if backward else 1.0)


def activation_bytes(
    settings: ModelSettings,
    tokens: int,
    length: int,
    predicted_fraction: float = 0.15,
    itemsize: int = 4,
    activation_checkpointing: ActivationCheckpointing = "nothing",
) -> int:
    """Estimate the bytes that a forward pass over `tokens` tokens keeps for the backward pass.

    The estimate asks attention and feed-forward for what they keep, and leaves dropout masks out. Of what is
    recomputed, the input is kept, and the rest is in memory for one layer at a time.

    Args:
        settings: The model.
        tokens: Tokens of the batch.
        length: Length of its sequences.
        predicted_fraction: Fraction of the tokens that the head predicts.
        itemsize: Bytes per number.
        activation_checkpointing: What every block recomputes in the backward pass.
    """
    model, shape = meta_model(settings), settings.shape
    per_token = one_layer = 0.0
    for layer_shape, block in zip(settings.layer_shapes, model.encoder.layer_blocks, strict=True):
        attention, ffn = (cost.kept for cost in _sublayer_costs(settings, layer_shape, length))
        norms = sum(_norm_size(m) for m in block.modules())
        whole = attention + ffn + norms
        recomputed = {"nothing": 0, "attention": attention, "ffn": ffn, "block": whole}[activation_checkpointing]
        per_token += whole - recomputed + (shape.width if recomputed else 0)
        one_layer = max(one_layer, recomputed)
    per_token += one_layer + _kept_by_decoder(settings, length)
    per_token += _norm_size(model.encoder.embedding_norm) + _norm_size(model.encoder.final_norm)
    head = predicted_fraction * (shape.width + 3 * shape.embedding_size) if settings.head is not None else 0.0
    return int(tokens * (per_token + head) * itemsize)


def _kept_by_decoder(settings: ModelSettings, length: int) -> float:
    """Numbers that the decoder keeps per token, if there is one, for as many tokens as the encoder reads."""
    model, shape = meta_model(settings), settings.shape
    if settings.decoder is None or model.decoder is None:
        return 0.0
    kept = shape.width + 3.0 * shape.embedding_size if settings.decoder.head is not None else 0.0
    for layer_shape, block in zip(settings.decoder.layer_shapes(shape), model.decoder.blocks, strict=True):
        kept += sum(cost.kept for cost in _sublayer_costs(settings, layer_shape, length))
        kept += sum(_norm_size(m) for m in block.modules())
        if settings.decoder.memory:
            kept += settings.attention.cost(layer_shape, length).kept
    return kept


def layer_parameters(settings: ModelSettings) -> tuple[int, ...]:
    """Return the number of parameters of each block; layers that share one count once."""
    return tuple(sum(p.numel() for p in block.parameters()) for block in meta_model(settings).encoder.blocks)


def meta_model(settings: ModelSettings) -> Model:
    """Build a model on the meta device, which allocates nothing."""
    with torch.device("meta"):
        return Model(settings)


def _sublayer_costs(settings: ModelSettings, shape: Shape, length: float) -> tuple[Cost, Cost]:
    """What attention, with its positions, and feed-forward of a layer cost; nothing for one that the layer does not
    have."""
    attention = Cost(0.0, 0.0)
    if shape.heads:
        own, added = settings.attention.cost(shape, length), settings.positions.cost(shape, length)
        attention = Cost(own.flops + added.flops, own.kept + added.kept)
    return attention, settings.ffn.cost(shape) if shape.intermediate_size else Cost(0.0, 0.0)


def _weights(module: nn.Module) -> int:
    """The number of weights in the linear layers of a module."""
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, Linear))


def _weights_besides_sublayers(block: nn.Module) -> int:
    """The number of weights in the linear layers of a block that do not belong to its attention or feed-forward."""
    return _weights(block) - _weights(block.get_submodule("attention")) - _weights(block.get_submodule("ffn"))


def _norm_size(module: nn.Module) -> int:
    """What a norm keeps per token: its input. Zero for other modules."""
    weight = getattr(module, "weight", None)
    return weight.numel() if isinstance(weight, torch.Tensor) and weight.dim() == 1 else 0
