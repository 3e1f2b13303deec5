"""What the formats of post-norm encoders (BERT, RoBERTa) share: settings, incompatibilities, names of tensors.

They differ in the row of the table that position 0 uses, in the names of the head's tensors, and in the head's
activation.
"""

from __future__ import annotations

from typing import Any

from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.model.attention.full import FullAttention
from encodery.model.blocks.post import PostNorm
from encodery.model.extra_heads.segment_relation import SegmentRelationHead
from encodery.model.ffn.mlp import MLP
from encodery.model.format_types import Config, HeadForm, TensorNames
from encodery.model.formats._checks import (
    THEIR_ACTIVATIONS,
    activation_of,
    check_supported,
    common_incompatibilities,
    required_size,
)
from encodery.model.heads.mlm import MLMHead
from encodery.model.init.normal import NormalInit
from encodery.model.masks.document import DocumentMask
from encodery.model.norms.layer import LayerNorm
from encodery.model.positions.learned import LearnedPositions
from encodery.model.settings import ModelSettings
from encodery.model.weights import ActivationName

BARE_PREFIXES = ("embeddings.", "encoder.layer.", "pooler.")
UNUSED_TENSORS = ("pooler.", "embeddings.position_ids", "embeddings.token_type_ids")
POOLER = "pooler.dense"
POOLED_HEAD = HeadForm(layers={"dense": POOLER, "out": "classifier"})
"""A head of sequences: the pooler's dense layer and tanh over the first hidden state, then a linear map."""
TOKEN_HEAD, SPAN_HEAD = HeadForm(layers={"out": "classifier"}), HeadForm(layers={"out": "qa_outputs"})

_EMBEDDINGS = {
    "embeddings.word.weight": "embeddings.word_embeddings.weight",
    "embeddings.segment.weight": "embeddings.token_type_embeddings.weight",
    "positions.table.weight": "embeddings.position_embeddings.weight",
    "embedding_norm": "embeddings.LayerNorm",
}
_BLOCK = {
    "attention.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.out": ("attention.output.dense",),
    "attention_norm": ("attention.output.LayerNorm",),
    "ffn.up": ("intermediate.dense",),
    "ffn.down": ("output.dense",),
    "ffn_norm": ("output.LayerNorm",),
}

_RELATION = name_of(SegmentRelationHead)
MLM_AND_RELATION = f"{name_of(MLMHead)}+{_RELATION}"
"""The heads of the stock classes of pre-training: masked tokens, and the relation of two segments."""


def relation_names(dense: str, score: str) -> TensorNames:
    """Names of the tensors of the head of the relation, ours to theirs, given the names of its two layers."""
    return {
        f"heads.{_RELATION}.{ours}.{end}": (f"{theirs}.{end}",)
        for ours, theirs in (("dense", dense), ("score", score))
        for end in ("weight", "bias")
    }


def relation_incompatibilities(settings: ModelSettings) -> list[str]:
    """What keeps the head of the relation from the stock classes of pre-training, which know two relations."""
    heads = [head for head in settings.extra_heads if isinstance(head, SegmentRelationHead)]
    return [f"extra_heads.relations = {head.relations} (needs 2)" for head in heads if head.relations != 2]


def post_norm_example(*, type_vocab_size: int, position_offset: int = 0) -> ModelSettings:
    """A small post-norm model with learned positions, the first of which uses row `position_offset` of their table."""
    return ModelSettings(
        width=16,
        depth=3,
        heads=2,
        intermediate_size=20,
        vocab_size=64,
        max_length=32,
        type_vocab_size=type_vocab_size,
        positions=LearnedPositions(offset=position_offset),
    )


def encoder_names(depth: int, prefix: str) -> TensorNames:
    """Names of the encoder's tensors, ours to theirs."""
    names: TensorNames = {}
    for ours, theirs in _EMBEDDINGS.items():
        for end in [""] if ours.endswith(".weight") else [".weight", ".bias"]:
            names[f"encoder.{ours}{end}"] = (f"{prefix}{theirs}{end}",)
    for layer in range(depth):
        for ours, pieces in _BLOCK.items():
            for end in ("weight", "bias"):
                their_names = tuple(f"{prefix}encoder.layer.{layer}.{piece}.{end}" for piece in pieces)
                names[f"encoder.blocks.{layer}.{ours}.{end}"] = their_names
    return names


def read_post_norm_config(config: Config, head: MLMHead | None, position_offset: int) -> ModelSettings:
    """Settings of a post-norm configuration whose position 0 uses row `position_offset` of the table."""
    check_supported(config, position_embedding_type=("absolute",))
    length = config.get("max_position_embeddings", 512) - position_offset
    if length < 1:
        raise SettingsError(
            f"config.json: max_position_embeddings must be greater than {position_offset}, the number of unused rows."
        )
    return ModelSettings(
        width=required_size(config, "hidden_size"),
        depth=required_size(config, "num_hidden_layers"),
        heads=required_size(config, "num_attention_heads"),
        intermediate_size=required_size(config, "intermediate_size"),
        vocab_size=required_size(config, "vocab_size"),
        max_length=length,
        type_vocab_size=config.get("type_vocab_size", 2),
        dropout=config.get("hidden_dropout_prob", 0.1),
        positions=LearnedPositions(offset=position_offset),
        attention=FullAttention(dropout=config.get("attention_probs_dropout_prob", 0.1)),
        ffn=MLP(activation=activation_of(config, "hidden_act")),
        norm=LayerNorm(eps=config.get("layer_norm_eps", 1e-12)),
        init=NormalInit(std=config.get("initializer_range", 0.02)),
        head=head,
    )


def post_norm_incompatibilities(settings: ModelSettings, head_activation: ActivationName | None) -> list[str]:
    """What keeps a model from a post-norm format, positions aside.

    `head_activation`: the head's activation in this format (None: that of the feed-forward layers).
    """
    if head_activation is None and isinstance(settings.ffn, MLP):
        head_activation = settings.ffn.activation
    return common_incompatibilities(settings, {"mask": DocumentMask, "block": PostNorm, "ffn": MLP}, head_activation)


def write_post_norm_config(settings: ModelSettings) -> dict[str, Any]:
    """The keys of a post-norm configuration, positions and special tokens aside."""
    assert isinstance(settings.ffn, MLP)
    assert isinstance(settings.attention, FullAttention)
    assert isinstance(settings.norm, LayerNorm)
    shape = settings.shape
    return {
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.intermediate_size,
        "hidden_act": THEIR_ACTIVATIONS[settings.ffn.activation],
        "hidden_dropout_prob": settings.dropout,
        "attention_probs_dropout_prob": settings.attention.dropout,
        "type_vocab_size": shape.type_vocab_size or 2,
        "layer_norm_eps": settings.norm.eps,
        "initializer_range": settings.init.std if isinstance(settings.init, NormalInit) else 0.02,
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "tie_word_embeddings": settings.head.tied if isinstance(settings.head, MLMHead) else True,
    }
