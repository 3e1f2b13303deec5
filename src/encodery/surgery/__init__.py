"""Surgery: a model becomes another model by a change of its tables, in an instant; training may follow.

Differs from an adaptation (`adapt/`): nothing is learnt here, and the shapes of weights change. The model's origin (the
checkpoint it was imported from) does not survive, since it could no longer be written back.
"""

from __future__ import annotations

import abc
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from encodery.base.artifact import Artifact
from encodery.base.parts import Part
from encodery.base.settings import encode
from encodery.model.load import LoadedModel, Provenance, save_model
from encodery.model.network import Model
from encodery.tokens.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class SurgeryResult:
    """The new model, the tokenizer that belongs to it (None: the one it had), and figures on what was done."""

    model: Model
    tokenizer: Tokenizer | None = None
    metrics: dict[str, Any] = field(default_factory=dict)

    def save(
        self,
        folder: str | Path,
        loaded: LoadedModel,
        part: Surgery,
        modules: Mapping[str, dict[str, Tensor]] | None = None,
        overwrite: bool = False,
    ) -> Artifact:
        """Write the new model as an artifact that knows `loaded`, which it came from by `part`; `modules` stand on it,
        as `save_model` has them."""
        with tempfile.TemporaryDirectory() as room:
            tokenizer = loaded.tokenizer_path
            if self.tokenizer is not None:
                tokenizer = Path(room)
                self.tokenizer.save(tokenizer, max_length=self.model.settings.max_length)
            return save_model(
                folder,
                self.model,
                tokenizer,
                settings={**loaded.settings, "surgery": encode(part)},
                modules=modules,
                provenance=Provenance.of(loaded),
                metrics=self.metrics,
                overwrite=overwrite,
            )


class Surgery(Part):
    """One such change."""

    @abc.abstractmethod
    def operate(self, loaded: LoadedModel, generator: torch.Generator) -> SurgeryResult:
        """The changed model; `loaded` stays as it is. Raises `SettingsError` where the change cannot be made."""
