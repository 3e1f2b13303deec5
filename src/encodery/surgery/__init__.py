"""Surgery: a model becomes another model by a change of its tables, in an instant; training may follow.

Differs from an adaptation (`adapt/`): nothing is learnt here, and the shapes of weights change. The model's origin (the
checkpoint it was imported from) does not survive, since it could no longer be written back.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass, field
from typing import Any

import torch

from encodery.base.parts import Part
from encodery.model.load import Loaded
from encodery.model.network import Model
from encodery.tokens.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class Changed:
    """The new model, the tokenizer that belongs to it (None: the one it had), and figures on what was done."""

    model: Model
    tokenizer: Tokenizer | None = None
    figures: dict[str, Any] = field(default_factory=dict)


class Surgery(Part):
    """One such change."""

    @abc.abstractmethod
    def operate(self, loaded: Loaded, generator: torch.Generator) -> Changed:
        """The changed model; `loaded` stays as it is. Raises `SettingsError` where the change cannot be made."""
