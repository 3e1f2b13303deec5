"""Runtimes: ways of running a model without training it.

Shapes: T tokens of a packed batch, B sequences, H width.
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, ClassVar

from encodery.base.parts import Part
from encodery.runtimes.engine import InferenceEngine

if TYPE_CHECKING:  # An engine may be opened without a model, and without PyTorch.
    from encodery.model.network import Model


class Runtime(Part):
    """Contract of a runtime: it turns a model into an engine. `exact`: hidden states equal the model's to rounding."""

    exact: ClassVar[bool] = False

    @abc.abstractmethod
    def build(self, model: Model) -> InferenceEngine:
        """Return the engine; whether later changes of the model reach it is open.

        Raises `SettingsError` for a model that this runtime cannot run, or a machine that it cannot run on.
        """
