"""OpenVINO on the CPU: the fastest engine of others, where our own compiled one cannot run.

Weights are those of the model in float32, or what `encodery export openvino` wrote into `folder`: there they may be
8-bit, quantised after training on texts of the user's own. Activations then have fixed scales: a vector depends on its
batch by rounding only.

Differs from `torch`: absolute positions and full attention only; batches are padded inside, sorted by length.
A change of the model needs a new engine. Shapes: B sequences, L the longest of them, H width.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from encodery.base import machine
from encodery.base.extras import require
from encodery.runtimes import Engine, Runtime
from encodery.runtimes._checked import Limits
from encodery.runtimes._padded import PaddedEngine, checked_settings, of_model, opened

if TYPE_CHECKING:
    from encodery.model.network import Model

FILE = "model.xml"


@dataclass(frozen=True, kw_only=True)
class Openvino(Runtime):
    """`folder`: an export of the same model, None to convert it anew in float32; `threads`: None for as many as the
    process may use; `batch_tokens` are computed at once by a thread."""

    folder: str | None = None
    threads: int | None = None
    batch_tokens: int = 512

    def __post_init__(self) -> None:
        checked_settings(self.threads, self.batch_tokens)

    def build(self, model: Model) -> Engine:
        if self.folder is not None:
            of_model(self.folder, "openvino", model)
            return self.open(self.folder)
        from encodery.runtimes._onnx_graph import graph

        written = graph(model).SerializeToString()
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "model.onnx").write_bytes(written)
            return self.engine(Path(folder) / "model.onnx", Limits.of(model.settings))

    def open(self, folder: str | Path) -> Engine:
        """The engine of an export, without the model and without PyTorch."""
        artifact, limits = opened(folder, "openvino")
        return self.engine(artifact.path / FILE, limits)

    def engine(self, file: Path, limits: Limits) -> Engine:
        """The engine of a graph in a file, OpenVINO's own or ONNX."""
        core, threads = require("openvino", "openvino").Core(), self.threads or machine.threads()
        return _OpenvinoEngine(core, core.read_model(file), limits, threads, self.batch_tokens)


class _OpenvinoEngine(PaddedEngine):
    def __init__(self, core: Any, model: Any, limits: Limits, threads: int, batch_tokens: int) -> None:
        super().__init__(limits, threads, batch_tokens)
        self.core, self.model = core, model
        self.names = {name for one in model.inputs for name in one.get_names()}
        self._idle: dict[bool, list[Any]] = {True: [], False: [self.all.create_infer_request()]}

    @cached_property
    def all(self) -> Any:
        """For a group that is alone."""
        return self._compiled("LATENCY", 1)

    @cached_property
    def single(self) -> Any:
        """For groups beside each other, a thread each; made when the first such come."""
        return self._compiled("THROUGHPUT", self.threads)

    def _compiled(self, hint: str, streams: int) -> Any:
        settings = {"PERFORMANCE_HINT": hint, "NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": self.threads}
        return self.core.compile_model(self.model, "CPU", {**settings, "INFERENCE_PRECISION_HINT": "f32"})

    def answer(self, given: dict[str, np.ndarray], beside: bool) -> np.ndarray:
        """A request serves one caller at a time, and is kept for the next."""
        try:
            request = self._idle[beside].pop()
        except IndexError:
            request = (self.single if beside else self.all).create_infer_request()
        found: np.ndarray = request.infer({name: given[name] for name in self.names})[0].copy()
        self._idle[beside].append(request)
        return found
