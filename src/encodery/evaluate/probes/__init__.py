"""Probes: what a simple classifier can predict from each layer of a frozen encoder.

Shapes: N items, L layers (the embeddings and each block), H hidden.
"""

from __future__ import annotations

import abc
from pathlib import Path
from typing import TYPE_CHECKING

from encodery.base.parts import Part
from encodery.evaluate.probe_result import ProbeResult

if TYPE_CHECKING:
    from encodery.model.load import LoadedModel


class Probe(Part):
    """Predict one kind of annotation from each layer."""

    @abc.abstractmethod
    def measure(self, data: Path, loaded: LoadedModel) -> ProbeResult:
        """Train and evaluate the probe on labelled data. Raises `InputError` naming file and line of invalid data."""
