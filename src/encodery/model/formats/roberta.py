"""The RoBERTa layout: post-norm, learned positions that begin after the padding token's row. arXiv:1907.11692

XLM-RoBERTa and CamemBERT share it. Differs from `bert`: position 0 is row pad_token_id + 1 of the table, so that
table has as many rows more; the head's activation is always gelu, whatever `hidden_act` is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.model.formats import CheckpointFormat, Config, SpecialTokenIds, State, TensorNames
from encodery.model.formats._post import (
    INSIDE,
    SPARE,
    encoder_names,
    post_norm_incompatibilities,
    read_post_norm_config,
    write_post_norm_config,
)
from encodery.model.heads.mlm import MLMHead
from encodery.model.network import ModelSettings
from encodery.model.positions.learned import LearnedPositions

_HEAD = {
    "dense.weight": "dense.weight",
    "dense.bias": "dense.bias",
    "norm.weight": "layer_norm.weight",
    "norm.bias": "layer_norm.bias",
    "bias": "bias",
}


@dataclass(frozen=True, kw_only=True)
class RobertaFormat(CheckpointFormat):
    """No settings."""

    prefix: ClassVar[str] = "roberta."
    bare_prefixes: ClassVar[tuple[str, ...]] = INSIDE
    unused_tensors: ClassVar[tuple[str, ...]] = SPARE
    decoder_weight: ClassVar[str] = "lm_head.decoder.weight"
    unused_bias: ClassVar[str | None] = "lm_head.bias"
    stock_classes: ClassVar[tuple[str, str]] = ("RobertaModel", "RobertaForMaskedLM")

    def matches(self, config: Config) -> bool:
        return config.get("model_type") in ("roberta", "xlm-roberta", "camembert")

    def has_head(self, state: State) -> bool:
        return "lm_head.dense.weight" in state

    def read_config(self, config: Config, *, head: bool, tied: bool = True) -> ModelSettings:
        pad = config.get("pad_token_id", 1)
        if not isinstance(pad, int) or pad < 0:
            raise SettingsError(
                f"config.json: pad_token_id = {pad!r}; positions are counted from it, so it must be >= 0."
            )
        return read_post_norm_config(config, MLMHead(activation="gelu", tied=tied) if head else None, offset=pad + 1)

    def incompatibilities(self, settings: ModelSettings, special: SpecialTokenIds) -> list[str]:
        found = post_norm_incompatibilities(settings, "gelu")
        positions = settings.positions
        if not isinstance(positions, LearnedPositions):
            found.append(f"positions = '{name_of(positions)}' (needs 'learned')")
        elif positions.offset < 1 or special.pad not in (None, positions.offset - 1):
            found.append(f"positions.offset = {positions.offset} (needs the padding token's id + 1)")
        return found

    def write_config(self, settings: ModelSettings, special: SpecialTokenIds) -> dict[str, Any]:
        assert isinstance(settings.positions, LearnedPositions)
        offset = settings.positions.offset
        return {
            "model_type": "roberta",
            "architectures": [self.stock_classes[settings.head is not None]],
            **write_post_norm_config(settings),
            "max_position_embeddings": settings.max_length + offset,
            "pad_token_id": offset - 1,
            "bos_token_id": special.cls,
            "eos_token_id": special.sep,
        }

    def tensor_names(self, config: Config, settings: ModelSettings) -> TensorNames:
        found = encoder_names(settings.depth, self.prefix)
        if settings.head is not None:
            found |= {f"heads.mlm.{mine}": (f"lm_head.{theirs}",) for mine, theirs in _HEAD.items()}
            if isinstance(settings.head, MLMHead) and not settings.head.tied:
                found |= {"heads.mlm.decoder.weight": (self.decoder_weight,), "heads.mlm.bias": (self.decoder_bias,)}
        return found
