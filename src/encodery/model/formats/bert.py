"""The BERT layout: post-norm, learned positions from row 0, segments. arXiv:1810.04805

Beyond models made of BERT's parts, those without segments, positions or biases fit too: zeros are written, which
is exact; fixed sinusoidal positions are written as the table they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from encodery.base.parts import name_of
from encodery.model.formats import CheckpointFormat, Config, SpecialTokenIds, State, TensorNames
from encodery.model.formats._keys import activation_of
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
from encodery.model.positions.none import NoPositions
from encodery.model.positions.sinusoidal import SinusoidalPositions

_HEAD = {
    "dense.weight": "transform.dense.weight",
    "dense.bias": "transform.dense.bias",
    "norm.weight": "transform.LayerNorm.weight",
    "norm.bias": "transform.LayerNorm.bias",
    "bias": "bias",
}


@dataclass(frozen=True, kw_only=True)
class BertFormat(CheckpointFormat):
    """No settings."""

    prefix: ClassVar[str] = "bert."
    bare_prefixes: ClassVar[tuple[str, ...]] = INSIDE
    unused_tensors: ClassVar[tuple[str, ...]] = SPARE
    decoder_weight: ClassVar[str] = "cls.predictions.decoder.weight"
    unused_bias: ClassVar[str | None] = "cls.predictions.bias"
    stock_classes: ClassVar[tuple[str, str]] = ("BertModel", "BertForMaskedLM")

    def matches(self, config: Config) -> bool:
        return config.get("model_type") == "bert"

    def has_head(self, state: State) -> bool:
        return "cls.predictions.transform.dense.weight" in state

    def read_config(self, config: Config, *, head: bool, tied: bool = True) -> ModelSettings:
        made = MLMHead(activation=activation_of(config, "hidden_act"), tied=tied) if head else None
        return read_post_norm_config(config, made, offset=0)

    def incompatibilities(self, settings: ModelSettings, special: SpecialTokenIds) -> list[str]:
        found = post_norm_incompatibilities(settings, None)
        positions = settings.positions
        if not isinstance(positions, LearnedPositions | NoPositions | SinusoidalPositions):
            found.append(f"positions = '{name_of(positions)}' (needs 'learned', 'sinusoidal' or 'none')")
        elif isinstance(positions, LearnedPositions) and positions.offset:
            found.append(f"positions.offset = {positions.offset} (needs 0)")
        return found

    def write_config(self, settings: ModelSettings, special: SpecialTokenIds) -> dict[str, Any]:
        return {
            "model_type": "bert",
            "architectures": [self.stock_classes[settings.head is not None]],
            **write_post_norm_config(settings),
            "max_position_embeddings": settings.max_length,
            "pad_token_id": special.pad,
        }

    def tensor_names(self, config: Config, settings: ModelSettings) -> TensorNames:
        found = encoder_names(settings.depth, self.prefix)
        if settings.head is not None:
            found |= {f"heads.mlm.{mine}": (f"cls.predictions.{theirs}",) for mine, theirs in _HEAD.items()}
            if isinstance(settings.head, MLMHead) and not settings.head.tied:
                found |= {"heads.mlm.decoder.weight": (self.decoder_weight,), "heads.mlm.bias": (self.decoder_bias,)}
        return found
