"""Exporters: write a model in another library's format, and refuse if its outputs differ from the model's."""

from __future__ import annotations

import abc
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from encodery.base.artifact import Artifact
from encodery.base.parts import Part
from encodery.model.load import LoadedModel


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """The artifact that was written, the name of its format, and what was measured: drifts, sizes."""

    artifact: Artifact
    format: str
    metrics: dict[str, Any] = field(default_factory=dict)


class Exporter(Part):
    """One format."""

    @abc.abstractmethod
    def write(self, loaded: LoadedModel, folder: Path, overwrite: bool = False) -> ExportResult:
        """Write the model into `folder`, as an artifact of kind "export" whose parent is the model.

        Raises `SettingsError` naming the settings that the format cannot express, and `ArtifactError` if the written
        model does not compute what `loaded` computes; then no folder is left behind.
        """
