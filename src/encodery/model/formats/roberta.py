"""The RoBERTa format: post-norm, learned positions that start after the row of the padding token. arXiv:1907.11692

XLM-RoBERTa and CamemBERT use it too. Differs from `bert`: position 0 uses row pad_token_id + 1 of the table, so the
table has that many rows more; the head's activation is always gelu, whatever `hidden_act` is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.model.format_types import Config, HeadForm, HeadKind, SpecialTokenIds, State, TensorNames
from encodery.model.formats import CheckpointFormat
from encodery.model.formats._post_norm import (
    BARE_PREFIXES,
    POOLED_HEAD,
    POOLER,
    SPAN_HEAD,
    TOKEN_HEAD,
    UNUSED_TENSORS,
    encoder_names,
    post_norm_example,
    post_norm_incompatibilities,
    read_post_norm_config,
    write_post_norm_config,
)
from encodery.model.heads.mlm import MLMHead
from encodery.model.positions.learned import LearnedPositions
from encodery.model.settings import ModelSettings

_LM_HEAD = {
    "dense.weight": "dense.weight",
    "dense.bias": "dense.bias",
    "norm.weight": "layer_norm.weight",
    "norm.bias": "layer_norm.bias",
    "bias": "bias",
}


@dataclass(frozen=True, kw_only=True)
class RobertaFormat(CheckpointFormat):
    """Has no settings."""

    prefix: ClassVar[str] = "roberta."
    bare_prefixes: ClassVar[tuple[str, ...]] = BARE_PREFIXES
    unused_tensors: ClassVar[tuple[str, ...]] = UNUSED_TENSORS
    decoder_weight: ClassVar[str] = "lm_head.decoder.weight"
    unused_bias: ClassVar[str | None] = "lm_head.bias"
    stock_classes: ClassVar[Mapping[str | None, str]] = {None: "RobertaModel", "mlm": "RobertaForMaskedLM"}
    pooler: ClassVar[str | None] = POOLER
    heads: ClassVar[Mapping[HeadKind, HeadForm]] = {
        "SequenceClassification": HeadForm(layers={"dense": "classifier.dense", "out": "classifier.out_proj"}),
        "MultipleChoice": POOLED_HEAD,
        "TokenClassification": TOKEN_HEAD,
        "QuestionAnswering": SPAN_HEAD,
    }

    def matches(self, config: Config) -> bool:
        return config.get("model_type") in ("roberta", "xlm-roberta", "camembert")

    def head_in(self, state: State) -> str | None:
        return "mlm" if "lm_head.dense.weight" in state else None

    def read_config(self, config: Config, *, head: str | None, tied: bool = True) -> ModelSettings:
        pad = config.get("pad_token_id", 1)
        if not isinstance(pad, int) or pad < 0:
            raise SettingsError(
                f"config.json: pad_token_id = {pad!r}; it must be at least 0, because positions are counted from it."
            )
        lm_head = MLMHead(activation="gelu", tied=tied) if head else None
        return read_post_norm_config(config, lm_head, position_offset=pad + 1)

    def incompatibilities(self, settings: ModelSettings, special: SpecialTokenIds) -> list[str]:
        reasons = post_norm_incompatibilities(settings, "gelu")
        positions = settings.positions
        if not isinstance(positions, LearnedPositions):
            reasons.append(f"positions = '{name_of(positions)}' (needs 'learned')")
        elif positions.offset < 1 or special.pad not in (None, positions.offset - 1):
            reasons.append(f"positions.offset = {positions.offset} (needs the padding token's id + 1)")
        return reasons

    def write_config(self, settings: ModelSettings, special: SpecialTokenIds) -> dict[str, Any]:
        assert isinstance(settings.positions, LearnedPositions)
        offset = settings.positions.offset
        return {
            "model_type": "roberta",
            "architectures": [self.stock_classes[settings.head_name]],
            **write_post_norm_config(settings),
            "max_position_embeddings": settings.max_length + offset,
            "pad_token_id": offset - 1,
            "bos_token_id": special.cls,
            "eos_token_id": special.sep,
        }

    def tensor_names(self, config: Config, settings: ModelSettings) -> TensorNames:
        names = encoder_names(settings.depth, self.prefix)
        if settings.head is not None:
            names |= {f"heads.mlm.{ours}": (f"lm_head.{theirs}",) for ours, theirs in _LM_HEAD.items()}
            if isinstance(settings.head, MLMHead) and not settings.head.tied:
                names["heads.mlm.decoder.weight"] = (self.decoder_weight,)
                names["heads.mlm.bias"] = ("lm_head.decoder.bias",)
        return names

    @staticmethod
    def example() -> ModelSettings:
        return post_norm_example(type_vocab_size=1, position_offset=1)
