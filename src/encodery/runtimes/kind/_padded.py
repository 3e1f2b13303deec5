"""What the runtimes that run a graph from a file share."""

from __future__ import annotations

import abc
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from encodery.base import machine
from encodery.base.artifact import Artifact
from encodery.base.errors import ArtifactError
from encodery.base.parts import name_of
from encodery.base.settings import check_at_least, check_interval
from encodery.runtimes.batch import Limits
from encodery.runtimes.engine import InferenceEngine
from encodery.runtimes.kind import Runtime
from encodery.runtimes.padded import open_export

if TYPE_CHECKING:
    from encodery.model.network import Model


@dataclass(frozen=True, kw_only=True)
class PaddedRuntime(Runtime):
    """A runtime of a graph in a file; abstract. `folder`: an export of the same model, None to write the graph in
    float32; `threads`: None for as many as the process may use; `batch_tokens`: a thread computes at most that many
    tokens at once."""

    folder: str | None = None
    threads: int | None = None
    batch_tokens: int = 512

    FILE: ClassVar[str]
    """The name of the graph's file in an export."""

    def __post_init__(self) -> None:
        check_interval(self, "1 <= x <= 1024", "threads")
        check_at_least(self, 1, "batch_tokens")

    @abc.abstractmethod
    def build_engine(self, file: Path, limits: Limits) -> InferenceEngine:
        """Return the engine of a graph, which must not depend on the file afterwards. The file may be ONNX as well as
        the runtime's own format."""

    def build(self, model: Model) -> InferenceEngine:
        from encodery.runtimes.onnx_graph import build_graph, encoder_digest

        if self.folder is None:
            graph = build_graph(model).SerializeToString()
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "model.onnx"
                file.write_bytes(graph)
                return self.build_engine(file, Limits.of(model.settings))
        artifact = Artifact.open(self.folder, "export")
        if artifact.manifest.settings.get("encoder") != encoder_digest(model):
            raise ArtifactError(f"{self.folder}: was exported from another model, or the model has changed since.")
        return self.open(self.folder)

    def open(self, folder: str | Path) -> InferenceEngine:
        """Return the engine of an export, without the model and without PyTorch."""
        artifact, limits = open_export(folder, name_of(self))
        return self.build_engine(artifact.path / self.FILE, limits)

    def num_threads(self) -> int:
        """Return `threads`, or the number that the process may use."""
        return self.threads or machine.threads()
