"""ONNX Runtime on the CPU: the portable second, where the compiled engine is not and PyTorch is not wanted.

The graph is written in the classic shape that its fusions look for (`_onnx_graph.py`). Weights are those of the model
in float32, or what `encodery model export --format onnx` wrote into `folder`: there they may be 8-bit, with a scale
for each output channel and activations at fixed scales, so that a vector does not depend on its batch. One scale for a
whole weight matrix, and scales of activations found anew for each batch, are not offered: vectors would be far off, or
depend on their company.

Differs from `torch`: absolute positions and full attention only; batches are padded inside, sorted by length.
A change of the model needs a new engine. Shapes: B sequences, L the longest of them, H width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from encodery.base.extras import require
from encodery.runtimes import InferenceEngine
from encodery.runtimes._checked import Limits
from encodery.runtimes._padded import PaddedEngine, PaddedRuntime


@dataclass(frozen=True, kw_only=True)
class OnnxRuntime(PaddedRuntime):
    """`folder`: an export of the same model, None to write the graph anew in float32; `threads`: None for as many as
    the process may use; `batch_tokens` are computed at once by a thread."""

    FILE: ClassVar[str] = "model.onnx"

    def build_engine(self, file: Path, limits: Limits) -> InferenceEngine:
        runtime = require("onnxruntime", "onnx")
        return _OnnxEngine(runtime, file.read_bytes(), limits, self.num_threads(), self.batch_tokens)


class _OnnxEngine(PaddedEngine):
    def __init__(self, runtime: Any, model: bytes, limits: Limits, threads: int, batch_tokens: int) -> None:
        super().__init__(limits, threads, batch_tokens)
        self.runtime, self.model = runtime, model
        self.names = {one.name for one in self.all_threads.get_inputs()}

    @cached_property
    def all_threads(self) -> Any:
        """For a group that is alone."""
        return self.session(self.threads)

    @cached_property
    def single_thread(self) -> Any:
        """For groups beside each other; made when the first such come."""
        return self.session(1)

    def session(self, threads: int) -> Any:
        """A session of that many threads."""
        options = self.runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.graph_optimization_level = self.runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        return self.runtime.InferenceSession(self.model, options, providers=["CPUExecutionProvider"])

    def forward_padded(self, inputs: dict[str, np.ndarray], concurrent: bool) -> np.ndarray:
        session = self.single_thread if concurrent else self.all_threads
        found: np.ndarray = session.run(None, {name: inputs[name] for name in self.names})[0]
        return found
