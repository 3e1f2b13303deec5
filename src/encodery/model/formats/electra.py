"""The ELECTRA format: BERT's layers, embeddings that may be narrower than the model, no pooler. arXiv:2003.10555

Differs from `bert`: the norm and the dropout of the embeddings act on the embedding size, before a linear map to the
model's width, which exists if the two differ. Two heads have a stock class: `mlm` (that of a generator) and
`replaced_tokens` (that of a discriminator).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from encodery.base.parts import name_of
from encodery.model.embeddings.factorized import FactorizedEmbeddings
from encodery.model.embeddings.plain import PlainEmbeddings
from encodery.model.extra_heads.replaced_tokens import ReplacedTokenHead
from encodery.model.ffn.mlp import MLP
from encodery.model.format_types import Config, HeadForm, HeadKind, SpecialTokenIds, State, TensorNames
from encodery.model.formats import CheckpointFormat
from encodery.model.formats._checks import activation_of, required_size
from encodery.model.formats._post_norm import (
    SPAN_HEAD,
    TOKEN_HEAD,
    encoder_names,
    post_norm_example,
    post_norm_incompatibilities,
    read_post_norm_config,
    write_post_norm_config,
)
from encodery.model.heads.mlm import MLMHead
from encodery.model.positions.learned import LearnedPositions
from encodery.model.positions.none import NoPositions
from encodery.model.positions.sinusoidal import SinusoidalPositions
from encodery.model.settings import ModelSettings

_MLM, _REPLACED = name_of(MLMHead), name_of(ReplacedTokenHead)
_MLM_HEAD = {
    "dense.weight": "generator_predictions.dense.weight",
    "dense.bias": "generator_predictions.dense.bias",
    "norm.weight": "generator_predictions.LayerNorm.weight",
    "norm.bias": "generator_predictions.LayerNorm.bias",
    "bias": "generator_lm_head.bias",
}
_REPLACED_HEAD = {"dense": "discriminator_predictions.dense", "score": "discriminator_predictions.dense_prediction"}
_PROJECTION = "embeddings_project"


@dataclass(frozen=True, kw_only=True)
class ElectraFormat(CheckpointFormat):
    """Has no settings."""

    prefix: ClassVar[str] = "electra."
    bare_prefixes: ClassVar[tuple[str, ...]] = ("embeddings.", "embeddings_project.", "encoder.layer.")
    unused_tensors: ClassVar[tuple[str, ...]] = ("embeddings.position_ids", "embeddings.token_type_ids")
    decoder_weight: ClassVar[str] = "generator_lm_head.weight"
    stock_classes: ClassVar[Mapping[str | None, str]] = {
        None: "ElectraModel",
        _MLM: "ElectraForMaskedLM",
        _REPLACED: "ElectraForPreTraining",
    }
    heads: ClassVar[Mapping[HeadKind, HeadForm]] = {
        "SequenceClassification": HeadForm(
            layers={"dense": "classifier.dense", "out": "classifier.out_proj"}, activation="gelu"
        ),
        "MultipleChoice": HeadForm(
            layers={"dense": "sequence_summary.summary", "out": "classifier"}, activation="gelu"
        ),
        "TokenClassification": TOKEN_HEAD,
        "QuestionAnswering": SPAN_HEAD,
    }

    def matches(self, config: Config) -> bool:
        return config.get("model_type") == "electra"

    def head_in(self, state: State) -> str | None:
        if f"{_REPLACED_HEAD['score']}.weight" in state:
            return _REPLACED
        return _MLM if "generator_predictions.dense.weight" in state else None

    def read_config(self, config: Config, *, head: str | None, tied: bool = True) -> ModelSettings:
        width, size = required_size(config, "hidden_size"), required_size(config, "embedding_size")
        plain = {key: value for key, value in config.items() if key != "embedding_size"}
        lm_head = MLMHead(activation="gelu", tied=tied) if head == _MLM else None
        extra = (ReplacedTokenHead(activation=activation_of(config, "hidden_act")),) if head == _REPLACED else ()
        return dataclasses.replace(
            read_post_norm_config(plain, lm_head, position_offset=0),
            embeddings=PlainEmbeddings() if size == width else FactorizedEmbeddings(width=size),
            extra_heads=extra,
        )

    def incompatibilities(self, settings: ModelSettings, special: SpecialTokenIds) -> list[str]:
        embeddings, shape = settings.embeddings, settings.shape
        narrow = isinstance(embeddings, FactorizedEmbeddings)
        known = dataclasses.replace(settings, embeddings=PlainEmbeddings()) if narrow else settings
        reasons = post_norm_incompatibilities(known, "gelu")
        if narrow and shape.embedding_size == shape.width:
            reasons.append(f"embeddings.width = {shape.width} (needs another size than the model's, or 'plain')")
        for head in settings.extra_heads:
            inner = settings.ffn.activation if isinstance(settings.ffn, MLP) else None
            if isinstance(head, ReplacedTokenHead) and head.activation != inner:
                reasons.append(f"extra_heads.activation = '{head.activation}' (needs that of ffn, '{inner}')")
        positions = settings.positions
        if not isinstance(positions, LearnedPositions | NoPositions | SinusoidalPositions):
            reasons.append(f"positions = '{name_of(positions)}' (needs 'learned', 'sinusoidal' or 'none')")
        elif isinstance(positions, LearnedPositions) and positions.offset:
            reasons.append(f"positions.offset = {positions.offset} (needs 0)")
        return reasons

    def write_config(self, settings: ModelSettings, special: SpecialTokenIds) -> dict[str, Any]:
        return {
            "model_type": "electra",
            "architectures": [self.stock_classes[settings.head_name]],
            **write_post_norm_config(settings),
            "embedding_size": settings.shape.embedding_size,
            "max_position_embeddings": settings.max_length,
            "summary_type": "first",
            "summary_use_proj": True,
            "summary_activation": "gelu",
            "pad_token_id": special.pad,
        }

    def tensor_names(self, config: Config, settings: ModelSettings) -> TensorNames:
        names = encoder_names(settings.depth, self.prefix)
        if isinstance(settings.embeddings, FactorizedEmbeddings):
            for end in ("weight", "bias"):
                names[f"encoder.embeddings.project.{end}"] = (f"{self.prefix}{_PROJECTION}.{end}",)
        if isinstance(settings.head, MLMHead):
            names |= {f"heads.mlm.{ours}": (theirs,) for ours, theirs in _MLM_HEAD.items()}
            if not settings.head.tied:
                names["heads.mlm.decoder.weight"] = (self.decoder_weight,)
        if settings.extra_heads:
            for ours, theirs in _REPLACED_HEAD.items():
                for end in ("weight", "bias"):
                    names[f"heads.{_REPLACED}.{ours}.{end}"] = (f"{theirs}.{end}",)
        return names

    def head_config(self, form: HeadForm, *, dropout: float, dense_bias: bool, norm_bias: bool) -> dict[str, Any]:
        return {"classifier_dropout": dropout, "summary_last_dropout": dropout}

    @staticmethod
    def example() -> ModelSettings:
        return dataclasses.replace(post_norm_example(type_vocab_size=2), embeddings=FactorizedEmbeddings(width=8))
