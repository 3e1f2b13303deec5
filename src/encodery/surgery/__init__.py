"""Surgery: a model becomes another model by a change of its tensors, without training; training may follow.

Differs from an adaptation (`adapt/`): nothing is learnt, and shapes of weights change. The origin of the model (the
checkpoint that it was imported from) is dropped, since the result cannot be written back to it.
"""

from __future__ import annotations

import abc
import tempfile
from collections.abc import Mapping, Sequence
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
from encodery.model.shape import Batch
from encodery.tokens.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class SurgeryResult:
    """The new model, its tokenizer (None: that of the old model), and metrics of the change."""

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
        """Write the new model as an artifact whose parent is `loaded`; `part` is stored in its settings.

        `modules`: what is stored with the model, such as heads, as for `save_model`.
        """
        with tempfile.TemporaryDirectory() as temporary:
            tokenizer = loaded.tokenizer_path
            if self.tokenizer is not None:
                tokenizer = Path(temporary)
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
    """Contract of a surgery."""

    @property
    def needs_texts(self) -> bool:
        """Whether it measures the model on texts, so that `operate` needs batches."""
        return False

    @abc.abstractmethod
    def operate(self, loaded: LoadedModel, generator: torch.Generator, batches: Sequence[Batch] = ()) -> SurgeryResult:
        """Return the changed model; `loaded` is not modified.

        `batches` are texts on which a surgery may measure the model; most ignore them. Raises `SettingsError` if the
        change is impossible, or if the surgery `needs_texts` and there are none.
        """
