"""OpenVINO on the CPU: the fastest engine of others, where our own compiled one cannot run.

Weights are those of the model in float32, or what `encodery model export --format openvino` wrote into `folder`: there
they may be
8-bit, quantised after training on texts of the user's own. Activations then have fixed scales: a vector depends on its
batch by rounding only.

Differs from `torch`: absolute positions and full attention only; batches are padded inside, sorted by length.
A change of the model needs a new engine. Shapes: B sequences, L the longest of them, H width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from encodery.runtimes import InferenceEngine
from encodery.runtimes._checked import Limits
from encodery.runtimes._padded import PaddedEngine, PaddedRuntime
from encodery.runtimes._reports import import_without_telemetry


@dataclass(frozen=True, kw_only=True)
class OpenvinoRuntime(PaddedRuntime):
    """`folder`: an export of the same model, None to convert it anew in float32; `threads`: None for as many as the
    process may use; `batch_tokens` are computed at once by a thread."""

    FILE: ClassVar[str] = "model.xml"

    def build_engine(self, file: Path, limits: Limits) -> InferenceEngine:
        openvino = import_without_telemetry()
        # Its bindings begin to know arrays at the first one that they hand out. Where two threads are first at once,
        # one can wait for Python's lock, the other with that lock in hand for the first, for good.
        openvino.Tensor(np.zeros(1, np.float32)).data.sum()
        core = openvino.Core()
        return _OpenvinoEngine(core, core.read_model(file), limits, self.num_threads(), self.batch_tokens)


class _OpenvinoEngine(PaddedEngine):
    def __init__(self, core: Any, model: Any, limits: Limits, threads: int, batch_tokens: int) -> None:
        super().__init__(limits, threads, batch_tokens)
        self.core, self.model = core, model
        self.names = {name for one in model.inputs for name in one.get_names()}
        self._idle: dict[bool, list[Any]] = {True: [], False: [self.all_threads.create_infer_request()]}

    @cached_property
    def all_threads(self) -> Any:
        """For a group that is alone."""
        return self._compiled("LATENCY", 1)

    @cached_property
    def single_thread(self) -> Any:
        """For groups beside each other, a thread each; made when the first such come."""
        return self._compiled("THROUGHPUT", self.threads)

    def _compiled(self, hint: str, streams: int) -> Any:
        settings = {"PERFORMANCE_HINT": hint, "NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": self.threads}
        return self.core.compile_model(self.model, "CPU", {**settings, "INFERENCE_PRECISION_HINT": "f32"})

    def forward_padded(self, inputs: dict[str, np.ndarray], concurrent: bool) -> np.ndarray:
        """A request serves one caller at a time, and is kept for the next."""
        try:
            request = self._idle[concurrent].pop()
        except IndexError:
            request = (self.single_thread if concurrent else self.all_threads).create_infer_request()
        found: np.ndarray = request.infer({name: inputs[name] for name in self.names})[0].copy()
        self._idle[concurrent].append(request)
        return found
