"""How a model's hidden states become its embeddings: pooling, finish, prompts. Stored with the model as `embed`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from encodery.base.errors import InputError, nearest
from encodery.encoders.pooling import Pooling
from encodery.encoders.pooling.mean import Mean
from encodery.encoders.postprocess import PostProcess
from encodery.encoders.postprocess.normalise import Normalise


@dataclass(frozen=True, kw_only=True)
class DenseSettings:
    """`max_length`: longest sequence with its special tokens, the model's own if not given. `prompts`: name -> text
    put before every text that is encoded under that name. `layers`: how many of the model's are run, all if not given;
    for models trained with the loss `matryoshka_layers`."""

    pooling: Pooling = field(default_factory=Mean)
    postprocess: tuple[PostProcess, ...] = (Normalise(),)
    max_length: int | None = None
    layers: int | None = None
    prompts: dict[str, str] = field(default_factory=dict)

    def prompt(self, name: str | None) -> str:
        """The prompt of that name, empty for None. Raises `InputError` with the nearest name."""
        return prompt_of(self.prompts, name)


def prompt_of(prompts: Mapping[str, str], name: str | None) -> str:
    """The prompt of that name, empty for None. Raises `InputError` with the nearest name."""
    if name is None:
        return ""
    if name not in prompts:
        known = ", ".join(prompts) or "none"
        raise InputError(f"The model has no prompt '{name}'.{nearest(name, prompts)} Known: {known}.")
    return prompts[name]
