"""Auxiliary terms: what a sublayer adds to the training loss besides what it computes, such as a router's balance.

An `AuxiliarySublayer` computes its terms in the forward pass of training. The encoder opens it before that pass and
takes its terms afterwards. What is computed again in the backward pass (activation checkpointing) must compute the
terms too, but finds the sublayer closed, so that no term counts twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, NamedTuple

from torch import Tensor, nn


class AuxiliaryTerm(NamedTuple):
    """A mean over the tokens that a sublayer read, and its weight in the loss."""

    mean: Tensor
    weight: float


class AuxiliarySublayer(nn.Module):
    """A sublayer with terms; abstract. `term_names`: their names, known before it runs."""

    term_names: ClassVar[tuple[str, ...]]

    def __init__(self) -> None:
        super().__init__()
        self.is_open = False
        self.terms: dict[str, AuxiliaryTerm] = {}

    def open(self) -> None:
        """Expect terms from the next forward pass."""
        self.is_open, self.terms = True, {}

    def add_term(self, name: str, mean: Tensor, weight: float) -> None:
        """Keep a term of the forward pass, unless the sublayer is closed."""
        if self.is_open:
            self.terms[name] = AuxiliaryTerm(mean, weight)

    def take(self) -> dict[str, AuxiliaryTerm]:
        """Return the terms of the last forward pass, and expect none from now on."""
        self.is_open, terms, self.terms = False, self.terms, {}
        return terms


def open_sublayers(block: nn.Module) -> list[AuxiliarySublayer]:
    """Open the sublayers of a block that have terms, and return them. A block in evaluation mode has none."""
    sublayers = [m for m in block.children() if isinstance(m, AuxiliarySublayer)] if block.training else []
    for sublayer in sublayers:
        sublayer.open()
    return sublayers


def add_terms(terms: Mapping[str, AuxiliaryTerm], sublayers: Iterable[AuxiliarySublayer]) -> dict[str, AuxiliaryTerm]:
    """Return `terms` and those of the sublayers; terms of one name are added up."""
    total = dict(terms)
    for sublayer in sublayers:
        for name, term in sublayer.take().items():
            total[name] = AuxiliaryTerm(total[name].mean + term.mean, term.weight) if name in total else term
    return total


def term_names(blocks: Iterable[nn.Module]) -> list[str]:
    """Return the names of the terms of all blocks."""
    names = {n for block in blocks for m in block.children() if isinstance(m, AuxiliarySublayer) for n in m.term_names}
    return sorted(names)
