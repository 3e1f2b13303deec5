"""How a model's hidden states or token embeddings become one vector per text: pooling, post-processing, prompts."""

from __future__ import annotations

from dataclasses import dataclass, field

from encodery.encoders.pooling import Pooling
from encodery.encoders.pooling.mean import Mean
from encodery.encoders.postprocess import PostProcess
from encodery.encoders.postprocess.normalise import Normalise
from encodery.encoders.prompts import find_prompt

STATIC_POOLING = Mean(include_special_tokens=False)


@dataclass(frozen=True, kw_only=True)
class DenseSettings:
    """Stored with the model as `dense`. `pooling`: one vector of a sequence from its hidden states; `postprocess`: the
    steps after that, in order; `max_length`: the longest sequence with its special tokens, the model's own if not
    given; `layers`: the number of the model's layers that are run, all if not given (for models trained with the loss
    `matryoshka_layers`); `prompts`: name -> text that is put before every text encoded under that name."""

    pooling: Pooling = field(default_factory=Mean)
    postprocess: tuple[PostProcess, ...] = (Normalise(),)
    max_length: int | None = None
    layers: int | None = None
    prompts: dict[str, str] = field(default_factory=dict)

    def prompt(self, name: str | None) -> str:
        """The prompt of that name, empty for None. Raises `InputError` with the nearest name."""
        return find_prompt(self.prompts, name)


@dataclass(frozen=True, kw_only=True)
class StaticSettings:
    """Stored with the model as `static`: a text is the mean of its token embeddings, special tokens not counted.
    `postprocess`, `max_length` and `prompts` as for dense embeddings."""

    postprocess: tuple[PostProcess, ...] = (Normalise(),)
    max_length: int | None = None
    prompts: dict[str, str] = field(default_factory=dict)

    def as_dense(self) -> DenseSettings:
        """The settings that give a model of depth 0 the same embeddings by its hidden states."""
        return DenseSettings(
            pooling=STATIC_POOLING, postprocess=self.postprocess, max_length=self.max_length, prompts=self.prompts
        )
