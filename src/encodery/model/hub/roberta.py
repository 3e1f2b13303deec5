"""The RoBERTa layout: post-norm, learned positions that begin after the padding token's row. arXiv:1907.11692

XLM-RoBERTa and CamemBERT share it. Differs from `bert`: position 0 is row pad_token_id + 1 of the table, so that
table has as many rows more; the head's activation is always gelu, whatever `hidden_act` is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.model.heads.mlm import MLM
from encodery.model.hub import Config, Door, Names, Special, State
from encodery.model.hub._post import INSIDE, SPARE, encoder_names, post_obstacles, read_settings, write_config
from encodery.model.network import ModelSettings
from encodery.model.positions.learned import Learned

_HEAD = {
    "dense.weight": "dense.weight",
    "dense.bias": "dense.bias",
    "norm.weight": "layer_norm.weight",
    "norm.bias": "layer_norm.bias",
    "bias": "bias",
}


@dataclass(frozen=True, kw_only=True)
class Roberta(Door):
    """No settings."""

    prefix: ClassVar[str] = "roberta."
    inside: ClassVar[tuple[str, ...]] = INSIDE
    spare: ClassVar[tuple[str, ...]] = SPARE
    decoder: ClassVar[str] = "lm_head.decoder.weight"
    idle_bias: ClassVar[str | None] = "lm_head.bias"
    classes: ClassVar[tuple[str, str]] = ("RobertaModel", "RobertaForMaskedLM")

    def matches(self, config: Config) -> bool:
        return config.get("model_type") in ("roberta", "xlm-roberta", "camembert")

    def has_head(self, state: State) -> bool:
        return "lm_head.dense.weight" in state

    def settings(self, config: Config, *, head: bool, tied: bool = True) -> ModelSettings:
        pad = config.get("pad_token_id", 1)
        if not isinstance(pad, int) or pad < 0:
            raise SettingsError(
                f"config.json: pad_token_id = {pad!r}; positions are counted from it, so it must be >= 0."
            )
        return read_settings(config, MLM(activation="gelu", tied=tied) if head else None, offset=pad + 1)

    def obstacles(self, settings: ModelSettings, special: Special) -> list[str]:
        found = post_obstacles(settings, "gelu")
        positions = settings.positions
        if not isinstance(positions, Learned):
            found.append(f"positions = '{name_of(positions)}' (needs 'learned')")
        elif positions.offset < 1 or special.pad not in (None, positions.offset - 1):
            found.append(f"positions.offset = {positions.offset} (needs the padding token's id + 1)")
        return found

    def config(self, settings: ModelSettings, special: Special) -> dict[str, Any]:
        assert isinstance(settings.positions, Learned)
        offset = settings.positions.offset
        return {
            "model_type": "roberta",
            "architectures": [self.classes[settings.head is not None]],
            **write_config(settings),
            "max_position_embeddings": settings.max_length + offset,
            "pad_token_id": offset - 1,
            "bos_token_id": special.cls,
            "eos_token_id": special.sep,
        }

    def names(self, config: Config, settings: ModelSettings) -> Names:
        found = encoder_names(settings.depth, self.prefix)
        if settings.head is not None:
            found |= {f"heads.mlm.{mine}": (f"lm_head.{theirs}",) for mine, theirs in _HEAD.items()}
            if isinstance(settings.head, MLM) and not settings.head.tied:
                found |= {"heads.mlm.decoder.weight": (self.decoder,), "heads.mlm.bias": (self.decoder_bias,)}
        return found
