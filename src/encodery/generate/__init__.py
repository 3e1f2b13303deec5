"""Generating text with an encoder: what belongs where a token is masked or missing.

Shapes: K proposals of a slot.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from encodery.base.parts import Part

if TYPE_CHECKING:
    from encodery.model.network import Model
    from encodery.tokens.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Proposal:
    """`token` as it reads in text, its `id`, its `probability` in 0..1, and the whole `text` with it in its slot."""

    token: str
    id: int
    probability: float
    text: str


@dataclass(frozen=True, slots=True)
class GeneratedText:
    """`text` with the best proposal in every slot; `slots`: the proposals (K) of each slot, best first, in the order of
    the slots in the text."""

    text: str
    slots: tuple[tuple[Proposal, ...], ...]


class TextGenerator(Part):
    """Contract of a way to generate text with a masked language model."""

    @abc.abstractmethod
    def generate(self, model: Model, tokenizer: Tokenizer, texts: Sequence[str], seed: int = 0) -> list[GeneratedText]:
        """Return one result per text, in order. The model is set to evaluation; `seed` decides every random draw.

        Raises `InputError` for a text that cannot be used, with its number, or a model without the head it needs.
        """
