"""The BERT layout: post-norm, learned positions from row 0, segments. arXiv:1810.04805

Beyond models made of BERT's parts, those without segments, positions or biases fit too: zeros are written, which
is exact; fixed sinusoidal positions are written as the table they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from encodery.base.parts import name_of
from encodery.model.heads.mlm import MLM
from encodery.model.hub import Config, Door, Names, Special, State
from encodery.model.hub._keys import activation_of
from encodery.model.hub._post import INSIDE, SPARE, encoder_names, post_obstacles, read_settings, write_config
from encodery.model.network import ModelSettings
from encodery.model.positions.learned import Learned
from encodery.model.positions.none import Nothing
from encodery.model.positions.sinusoidal import Sinusoidal

_HEAD = {
    "dense.weight": "transform.dense.weight",
    "dense.bias": "transform.dense.bias",
    "norm.weight": "transform.LayerNorm.weight",
    "norm.bias": "transform.LayerNorm.bias",
    "bias": "bias",
}


@dataclass(frozen=True, kw_only=True)
class Bert(Door):
    """No settings."""

    prefix: ClassVar[str] = "bert."
    inside: ClassVar[tuple[str, ...]] = INSIDE
    spare: ClassVar[tuple[str, ...]] = SPARE
    decoder: ClassVar[str] = "cls.predictions.decoder.weight"
    idle_bias: ClassVar[str | None] = "cls.predictions.bias"
    classes: ClassVar[tuple[str, str]] = ("BertModel", "BertForMaskedLM")

    def matches(self, config: Config) -> bool:
        return config.get("model_type") == "bert"

    def has_head(self, state: State) -> bool:
        return "cls.predictions.transform.dense.weight" in state

    def settings(self, config: Config, *, head: bool, tied: bool = True) -> ModelSettings:
        made = MLM(activation=activation_of(config, "hidden_act"), tied=tied) if head else None
        return read_settings(config, made, offset=0)

    def obstacles(self, settings: ModelSettings, special: Special) -> list[str]:
        found = post_obstacles(settings, None)
        positions = settings.positions
        if not isinstance(positions, Learned | Nothing | Sinusoidal):
            found.append(f"positions = '{name_of(positions)}' (needs 'learned', 'sinusoidal' or 'none')")
        elif isinstance(positions, Learned) and positions.offset:
            found.append(f"positions.offset = {positions.offset} (needs 0)")
        return found

    def config(self, settings: ModelSettings, special: Special) -> dict[str, Any]:
        return {
            "model_type": "bert",
            "architectures": [self.classes[settings.head is not None]],
            **write_config(settings),
            "max_position_embeddings": settings.max_length,
            "pad_token_id": special.pad,
        }

    def names(self, config: Config, settings: ModelSettings) -> Names:
        found = encoder_names(settings.depth, self.prefix)
        if settings.head is not None:
            found |= {f"heads.mlm.{mine}": (f"cls.predictions.{theirs}",) for mine, theirs in _HEAD.items()}
            if isinstance(settings.head, MLM) and not settings.head.tied:
                found |= {"heads.mlm.decoder.weight": (self.decoder,), "heads.mlm.bias": (self.decoder_bias,)}
        return found
