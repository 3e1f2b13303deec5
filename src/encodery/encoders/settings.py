"""How a model's hidden states become its dense embeddings: pooling, post-processing, prompts."""

from __future__ import annotations

from dataclasses import dataclass, field

from encodery.encoders.pooling import Pooling
from encodery.encoders.pooling.mean import Mean
from encodery.encoders.postprocess import PostProcess
from encodery.encoders.postprocess.normalise import Normalise
from encodery.encoders.prompts import find_prompt


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
