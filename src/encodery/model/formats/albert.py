"""The ALBERT format: post-norm layers that share their weights, behind factorised embeddings. arXiv:1909.11942

Differs from `bert`: layers belong to groups of equal size (`model.layer_groups`), and each group is stored once. Models
whose layers do not share weights fit too: every layer is then a group. Models without positions, segments or biases
fit: zeros are written in their place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from encodery.base.errors import SettingsError
from encodery.base.parts import Part, name_of
from encodery.model.blocks.post import PostNorm
from encodery.model.embeddings.factorized import FactorizedEmbeddings
from encodery.model.extra_heads.segment_relation import SegmentRelationHead
from encodery.model.ffn.mlp import MLP
from encodery.model.format_types import Config, HeadForm, HeadKind, SpecialTokenIds, State, TensorNames
from encodery.model.formats import CheckpointFormat
from encodery.model.formats._checks import activation_of, common_incompatibilities, required_size
from encodery.model.formats._post_norm import (
    MLM_AND_RELATION,
    SPAN_HEAD,
    TOKEN_HEAD,
    UNUSED_TENSORS,
    post_norm_example,
    read_post_norm_config,
    relation_incompatibilities,
    relation_names,
    write_post_norm_config,
)
from encodery.model.heads.mlm import MLMHead
from encodery.model.masks.document import DocumentMask
from encodery.model.positions.learned import LearnedPositions
from encodery.model.positions.none import NoPositions
from encodery.model.positions.sinusoidal import SinusoidalPositions
from encodery.model.settings import ModelSettings

DEFAULTS = {
    "embedding_size": 128,
    "num_hidden_groups": 1,
    "inner_group_num": 1,
    "hidden_act": "gelu_new",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
"""What the stock configuration has for a key that is absent, where it differs from BERT's."""
POOLER = "pooler"
_POOLED_HEAD = HeadForm(layers={"dense": POOLER, "out": "classifier"})
_TABLES = {
    "embeddings.word.weight": "embeddings.word_embeddings.weight",
    "embeddings.segment.weight": "embeddings.token_type_embeddings.weight",
    "positions.table.weight": "embeddings.position_embeddings.weight",
}
_MODULES = {"embedding_norm": "embeddings.LayerNorm", "embeddings.project": "encoder.embedding_hidden_mapping_in"}
_BLOCK = {
    "attention.qkv": ("attention.query", "attention.key", "attention.value"),
    "attention.out": ("attention.dense",),
    "attention_norm": ("attention.LayerNorm",),
    "ffn.up": ("ffn",),
    "ffn.down": ("ffn_output",),
    "ffn_norm": ("full_layer_layer_norm",),
}
_SCORE = "sop_classifier.classifier"
_LM_HEAD = {
    "dense.weight": "dense.weight",
    "dense.bias": "dense.bias",
    "norm.weight": "LayerNorm.weight",
    "norm.bias": "LayerNorm.bias",
    "bias": "bias",
}


@dataclass(frozen=True, kw_only=True)
class AlbertFormat(CheckpointFormat):
    """Has no settings."""

    prefix: ClassVar[str] = "albert."
    bare_prefixes: ClassVar[tuple[str, ...]] = ("embeddings.", "encoder.", "pooler.")
    unused_tensors: ClassVar[tuple[str, ...]] = UNUSED_TENSORS
    decoder_weight: ClassVar[str] = "predictions.decoder.weight"
    unused_bias: ClassVar[str | None] = "predictions.bias"
    stock_classes: ClassVar[Mapping[str | None, str]] = {
        None: "AlbertModel",
        "mlm": "AlbertForMaskedLM",
        MLM_AND_RELATION: "AlbertForPreTraining",
    }
    pooler: ClassVar[str | None] = POOLER
    heads: ClassVar[Mapping[HeadKind, HeadForm]] = {
        "SequenceClassification": _POOLED_HEAD,
        "MultipleChoice": _POOLED_HEAD,
        "TokenClassification": TOKEN_HEAD,
        "QuestionAnswering": SPAN_HEAD,
    }

    def matches(self, config: Config) -> bool:
        return config.get("model_type") == "albert"

    def head_in(self, state: State) -> str | None:
        if "predictions.dense.weight" not in state:
            return None
        names = relation_names(self.prefix + POOLER, _SCORE).values()
        return MLM_AND_RELATION if all(name in state for own in names for name in own) else "mlm"

    def read_config(self, config: Config, *, head: str | None, tied: bool = True) -> ModelSettings:
        full = {**DEFAULTS, **config}
        if full["inner_group_num"] != 1:
            raise SettingsError(
                f"config.json: inner_group_num = {full['inner_group_num']!r} is not supported; it must be 1."
            )
        lm_head = MLMHead(activation=activation_of(full, "hidden_act"), tied=tied) if head else None
        without = {key: value for key, value in full.items() if key != "embedding_size"}
        settings = read_post_norm_config(without, lm_head, position_offset=0)
        num_groups = required_size(full, "num_hidden_groups")
        return dataclasses.replace(
            settings,
            embeddings=FactorizedEmbeddings(width=required_size(full, "embedding_size")),
            extra_heads=(SegmentRelationHead(),) if head == MLM_AND_RELATION else (),
            layer_groups=() if num_groups == settings.depth else _groups(settings.depth, num_groups),
        )

    def incompatibilities(self, settings: ModelSettings, special: SpecialTokenIds) -> list[str]:
        parts: dict[str, type[Part]] = {
            "embeddings": FactorizedEmbeddings,
            "mask": DocumentMask,
            "block": PostNorm,
            "ffn": MLP,
        }
        activation = settings.ffn.activation if isinstance(settings.ffn, MLP) else None
        reasons = common_incompatibilities(settings, parts, activation, supported=("layer_groups",))
        positions, groups = settings.positions, settings.layer_groups
        if not isinstance(positions, LearnedPositions | NoPositions | SinusoidalPositions):
            reasons.append(f"positions = '{name_of(positions)}' (needs 'learned', 'sinusoidal' or 'none')")
        elif isinstance(positions, LearnedPositions) and positions.offset:
            reasons.append(f"positions.offset = {positions.offset} (needs 0)")
        if groups and groups != _groups(settings.depth, max(groups) + 1):
            reasons.append(f"layer_groups = {list(groups)} (needs neighbouring layers in groups of equal size)")
        if not settings.depth:
            reasons.append("depth = 0 (needs at least one layer)")
        return reasons + relation_incompatibilities(settings)

    def write_config(self, settings: ModelSettings, special: SpecialTokenIds) -> dict[str, Any]:
        return {
            "model_type": "albert",
            "architectures": [self.stock_classes[settings.head_name]],
            **write_post_norm_config(settings),
            "embedding_size": settings.shape.embedding_size,
            "num_hidden_groups": max(settings.groups) + 1,
            "inner_group_num": 1,
            "max_position_embeddings": settings.max_length,
            "pad_token_id": special.pad,
            "bos_token_id": special.cls,
            "eos_token_id": special.sep,
        }

    def tensor_names(self, config: Config, settings: ModelSettings) -> TensorNames:
        names: TensorNames = {f"encoder.{ours}": (self.prefix + theirs,) for ours, theirs in _TABLES.items()}
        for end in ("weight", "bias"):
            for ours, theirs in _MODULES.items():
                names[f"encoder.{ours}.{end}"] = (f"{self.prefix}{theirs}.{end}",)
            for group in range(max(settings.groups) + 1):
                layer = f"{self.prefix}encoder.albert_layer_groups.{group}.albert_layers.0"
                for ours, pieces in _BLOCK.items():
                    their_names = tuple(f"{layer}.{piece}.{end}" for piece in pieces)
                    names[f"encoder.blocks.{group}.{ours}.{end}"] = their_names
        if settings.head is not None:
            names |= {f"heads.mlm.{ours}": (f"predictions.{theirs}",) for ours, theirs in _LM_HEAD.items()}
            if isinstance(settings.head, MLMHead) and not settings.head.tied:
                names["heads.mlm.decoder.weight"] = (self.decoder_weight,)
                names["heads.mlm.bias"] = ("predictions.decoder.bias",)
        if settings.extra_heads:
            names |= relation_names(self.prefix + POOLER, _SCORE)
        return names

    def head_config(self, form: HeadForm, *, dropout: float, dense_bias: bool, norm_bias: bool) -> dict[str, Any]:
        return {"classifier_dropout_prob": dropout}

    @staticmethod
    def example() -> ModelSettings:
        plain = post_norm_example(type_vocab_size=2)
        return dataclasses.replace(plain, depth=4, embeddings=FactorizedEmbeddings(width=8), layer_groups=(0, 0, 1, 1))


def _groups(depth: int, num_groups: int) -> tuple[int, ...]:
    """The group of each layer, by the formula of the stock class. Raises `SettingsError` without groups."""
    if not 1 <= num_groups <= depth:
        raise SettingsError(f"config.json: num_hidden_groups = {num_groups}: must be from 1 to the {depth} layers.")
    return tuple(int(layer / (depth / num_groups)) for layer in range(depth))
