"""The BERT format: post-norm, learned positions from row 0 of their table, segments. arXiv:1810.04805

Beyond models made of BERT's parts, models without segments, positions or biases fit too: zeros are written in their
place, which is exact. Fixed sinusoidal positions are written as a table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from encodery.base.parts import name_of
from encodery.model.extra_heads.segment_relation import SegmentRelationHead
from encodery.model.format_types import Config, HeadForm, HeadKind, SpecialTokenIds, State, TensorNames
from encodery.model.formats import CheckpointFormat
from encodery.model.formats._checks import activation_of
from encodery.model.formats._post_norm import (
    BARE_PREFIXES,
    MLM_AND_RELATION,
    POOLED_HEAD,
    POOLER,
    SPAN_HEAD,
    TOKEN_HEAD,
    UNUSED_TENSORS,
    encoder_names,
    post_norm_example,
    post_norm_incompatibilities,
    read_post_norm_config,
    relation_incompatibilities,
    relation_names,
    write_post_norm_config,
)
from encodery.model.heads.mlm import MLMHead
from encodery.model.positions.learned import LearnedPositions
from encodery.model.positions.none import NoPositions
from encodery.model.positions.sinusoidal import SinusoidalPositions
from encodery.model.settings import ModelSettings

_SCORE = "cls.seq_relationship"
_LM_HEAD = {
    "dense.weight": "transform.dense.weight",
    "dense.bias": "transform.dense.bias",
    "norm.weight": "transform.LayerNorm.weight",
    "norm.bias": "transform.LayerNorm.bias",
    "bias": "bias",
}


@dataclass(frozen=True, kw_only=True)
class BertFormat(CheckpointFormat):
    """Has no settings."""

    prefix: ClassVar[str] = "bert."
    bare_prefixes: ClassVar[tuple[str, ...]] = BARE_PREFIXES
    unused_tensors: ClassVar[tuple[str, ...]] = UNUSED_TENSORS
    decoder_weight: ClassVar[str] = "cls.predictions.decoder.weight"
    unused_bias: ClassVar[str | None] = "cls.predictions.bias"
    stock_classes: ClassVar[Mapping[str | None, str]] = {
        None: "BertModel",
        "mlm": "BertForMaskedLM",
        MLM_AND_RELATION: "BertForPreTraining",
    }
    pooler: ClassVar[str | None] = POOLER
    heads: ClassVar[Mapping[HeadKind, HeadForm]] = {
        "SequenceClassification": POOLED_HEAD,
        "MultipleChoice": POOLED_HEAD,
        "TokenClassification": TOKEN_HEAD,
        "QuestionAnswering": SPAN_HEAD,
    }

    def matches(self, config: Config) -> bool:
        return config.get("model_type") == "bert"

    def head_in(self, state: State) -> str | None:
        if "cls.predictions.transform.dense.weight" not in state:
            return None
        names = relation_names(self.prefix + POOLER, _SCORE).values()
        return MLM_AND_RELATION if all(name in state for own in names for name in own) else "mlm"

    def read_config(self, config: Config, *, head: str | None, tied: bool = True) -> ModelSettings:
        lm_head = MLMHead(activation=activation_of(config, "hidden_act"), tied=tied) if head else None
        settings = read_post_norm_config(config, lm_head, position_offset=0)
        return dataclasses.replace(settings, extra_heads=(SegmentRelationHead(),) if head == MLM_AND_RELATION else ())

    def incompatibilities(self, settings: ModelSettings, special: SpecialTokenIds) -> list[str]:
        reasons = post_norm_incompatibilities(settings, None)
        positions = settings.positions
        if not isinstance(positions, LearnedPositions | NoPositions | SinusoidalPositions):
            reasons.append(f"positions = '{name_of(positions)}' (needs 'learned', 'sinusoidal' or 'none')")
        elif isinstance(positions, LearnedPositions) and positions.offset:
            reasons.append(f"positions.offset = {positions.offset} (needs 0)")
        return reasons + relation_incompatibilities(settings)

    def write_config(self, settings: ModelSettings, special: SpecialTokenIds) -> dict[str, Any]:
        return {
            "model_type": "bert",
            "architectures": [self.stock_classes[settings.head_name]],
            **write_post_norm_config(settings),
            "max_position_embeddings": settings.max_length,
            "pad_token_id": special.pad,
        }

    def tensor_names(self, config: Config, settings: ModelSettings) -> TensorNames:
        names = encoder_names(settings.depth, self.prefix)
        if settings.head is not None:
            names |= {f"heads.mlm.{ours}": (f"cls.predictions.{theirs}",) for ours, theirs in _LM_HEAD.items()}
            if isinstance(settings.head, MLMHead) and not settings.head.tied:
                names["heads.mlm.decoder.weight"] = (self.decoder_weight,)
                names["heads.mlm.bias"] = ("cls.predictions.decoder.bias",)
        if settings.extra_heads:
            names |= relation_names(self.prefix + POOLER, _SCORE)
        return names

    @staticmethod
    def example() -> ModelSettings:
        return post_norm_example(type_vocab_size=2)
