"""Ways out: a model as others read it, refused when what they would compute drifts from what the model computes."""

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
    """The folder written, what it holds in a few words, and what was measured: drifts, sizes."""

    artifact: Artifact
    format: str
    metrics: dict[str, Any] = field(default_factory=dict)


class Exporter(Part):
    """One format."""

    @abc.abstractmethod
    def write(self, loaded: LoadedModel, folder: Path, overwrite: bool = False) -> ExportResult:
        """Write the model into `folder`, an artifact of kind "export" whose parent is the model.

        Raises `SettingsError` naming the settings that the format cannot hold, `ArtifactError` where what was written
        does not compute what the model does; nothing is left behind then.
        """
