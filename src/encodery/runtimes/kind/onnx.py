"""ONNX Runtime on the CPU: for machines without the compiled engine, and processes without PyTorch.

The graph has the classic shape that ONNX Runtime's fusions look for (`onnx_graph.py`). Weights are those of the model
in float32, or what `encodery model export --format onnx` wrote into `folder`: there they may be 8-bit, with a scale for
each output channel and activations at fixed scales, so that a vector does not depend on its batch. One scale for a
whole weight matrix, and activation scales computed for each batch, are not offered: vectors would be inaccurate, or
depend on the other texts of the batch.

Differs from `torch`: absolute positions and full attention only; batches are padded inside, sorted by length.
After a change of the model a new engine is needed. Shapes: B sequences, L the longest of them, H width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from encodery.base.extras import require
from encodery.runtimes.batch import Limits
from encodery.runtimes.engine import InferenceEngine
from encodery.runtimes.kind._padded import PaddedRuntime
from encodery.runtimes.padded import PaddedEngine


@dataclass(frozen=True, kw_only=True)
class OnnxRuntime(PaddedRuntime):
    """Use it on processors that the compiled engine does not support. Settings: see `PaddedRuntime`.

    encodery serve run --runtime onnx
    """

    FILE: ClassVar[str] = "model.onnx"

    def build_engine(self, file: Path, limits: Limits) -> InferenceEngine:
        runtime = require("onnxruntime", "onnx")
        return _OnnxEngine(runtime, file.read_bytes(), limits, self.num_threads(), self.batch_tokens)


class _OnnxEngine(PaddedEngine):
    def __init__(self, runtime: Any, model: bytes, limits: Limits, threads: int, batch_tokens: int) -> None:
        super().__init__(limits, threads, batch_tokens)
        self.runtime, self.model = runtime, model
        self.names = {tensor.name for tensor in self.all_threads.get_inputs()}

    @cached_property
    def all_threads(self) -> Any:
        """The session that runs a single group."""
        return self.session(self.threads)

    @cached_property
    def single_thread(self) -> Any:
        """The session that runs several groups at once; made when it is first needed."""
        return self.session(1)

    def session(self, threads: int) -> Any:
        """Return a session that uses `threads` threads."""
        options = self.runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.graph_optimization_level = self.runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        return self.runtime.InferenceSession(self.model, options, providers=["CPUExecutionProvider"])

    def forward_padded(self, inputs: dict[str, np.ndarray], concurrent: bool) -> np.ndarray:
        session = self.single_thread if concurrent else self.all_threads
        states: np.ndarray = session.run(None, {name: inputs[name] for name in self.names})[0]
        return states
