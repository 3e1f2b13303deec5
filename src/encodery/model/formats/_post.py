"""What the doors of post-norm layouts (BERT, RoBERTa) share: settings, obstacles, and the names of the encoder.

Differs between the two: where position 0 lies in the table, how the head's tensors are called, and the head's
activation.
"""

from __future__ import annotations

from typing import Any

from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.model.attention.full import FullAttention
from encodery.model.blocks.post import PostNorm
from encodery.model.ffn.mlp import MLP
from encodery.model.formats._keys import (
    THEIR_ACTIVATIONS,
    Config,
    activation_of,
    check_neutral,
    common_incompatibilities,
    required_size,
)
from encodery.model.heads.mlm import MLMHead
from encodery.model.init.normal import NormalInit
from encodery.model.masks.document import DocumentMask
from encodery.model.network import ModelSettings
from encodery.model.norms.layer import LayerNorm
from encodery.model.positions.learned import LearnedPositions
from encodery.model.weights import ActivationName

Names = dict[str, tuple[str, ...]]

INSIDE = ("embeddings.", "encoder.layer.", "pooler.")
SPARE = ("pooler.", "embeddings.position_ids", "embeddings.token_type_ids")

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


def encoder_names(depth: int, prefix: str) -> Names:
    """Names of the encoder's tensors, ours to theirs."""
    found: Names = {}
    for mine, theirs in _EMBEDDINGS.items():
        for end in [""] if mine.endswith(".weight") else [".weight", ".bias"]:
            found[f"encoder.{mine}{end}"] = (f"{prefix}{theirs}{end}",)
    for i in range(depth):
        for mine, pieces in _BLOCK.items():
            for end in ("weight", "bias"):
                theirs_here = tuple(f"{prefix}encoder.layer.{i}.{piece}.{end}" for piece in pieces)
                found[f"encoder.blocks.{i}.{mine}.{end}"] = theirs_here
    return found


def read_post_norm_config(config: Config, head: MLMHead | None, offset: int) -> ModelSettings:
    """Settings of a post-norm configuration whose position 0 is row `offset` of the table."""
    check_neutral(config, position_embedding_type=("absolute",))
    length = config.get("max_position_embeddings", 512) - offset
    if length < 1:
        raise SettingsError(f"config.json: max_position_embeddings leaves no position after the first {offset} rows.")
    return ModelSettings(
        width=required_size(config, "hidden_size"),
        depth=required_size(config, "num_hidden_layers"),
        heads=required_size(config, "num_attention_heads"),
        intermediate_size=required_size(config, "intermediate_size"),
        vocab_size=required_size(config, "vocab_size"),
        max_length=length,
        type_vocab_size=config.get("type_vocab_size", 2),
        dropout=config.get("hidden_dropout_prob", 0.1),
        positions=LearnedPositions(offset=offset),
        attention=FullAttention(dropout=config.get("attention_probs_dropout_prob", 0.1)),
        ffn=MLP(activation=activation_of(config, "hidden_act")),
        norm=LayerNorm(eps=config.get("layer_norm_eps", 1e-12)),
        init=NormalInit(std=config.get("initializer_range", 0.02)),
        head=head,
    )


def post_norm_incompatibilities(settings: ModelSettings, head_activation: ActivationName | None) -> list[str]:
    """What keeps a model from a post-norm layout, positions aside; the head's activation None: that of the ffn."""
    found = common_incompatibilities(settings)
    for value, part, name in (
        (settings.mask, DocumentMask, "mask"),
        (settings.block, PostNorm, "block"),
        (settings.ffn, MLP, "ffn"),
    ):
        if not isinstance(value, part):
            found.append(f"{name} = '{name_of(value)}' (needs '{name_of(part)}')")
    head, wanted = settings.head, head_activation
    if wanted is None and isinstance(settings.ffn, MLP):
        wanted = settings.ffn.activation
    if isinstance(head, MLMHead):
        if not head.transform:
            found.append("head.transform = false (needs true)")
        if wanted is not None and head.activation != wanted:
            found.append(f"head.activation = '{head.activation}' (needs '{wanted}')")
    elif head is not None:
        found.append(f"head = '{name_of(head)}' (needs 'mlm')")
    return found


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
