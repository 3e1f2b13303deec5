"""OpenVINO on the CPU: the fastest engine of others, for machines that cannot run our own compiled one.

Weights are those of the model in float32, or what `encodery model export --format openvino` wrote into `folder`: there
they may be 8-bit, quantised after training on the user's own texts. Activations then have fixed scales: a vector
depends on its batch by rounding only.

Differs from `torch`: absolute positions and full attention only; batches are padded inside, sorted by length.
After a change of the model a new engine is needed. Shapes: B sequences, L the longest of them, H width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from encodery.runtimes.batch import Limits
from encodery.runtimes.engine import InferenceEngine
from encodery.runtimes.kind._padded import PaddedRuntime
from encodery.runtimes.openvino_import import import_without_telemetry
from encodery.runtimes.padded import PaddedEngine


@dataclass(frozen=True, kw_only=True)
class OpenvinoRuntime(PaddedRuntime):
    """Use it on Intel processors if the compiled engine does not run the model. Settings: see `PaddedRuntime`.

    encodery serve run --runtime openvino
    """

    FILE: ClassVar[str] = "model.xml"

    def build_engine(self, file: Path, limits: Limits) -> InferenceEngine:
        openvino = import_without_telemetry()
        # Its bindings learn about arrays when they first return one. If two threads are first at the same time, one can
        # wait for Python's lock and the other, holding that lock, for the first one: a deadlock.
        openvino.Tensor(np.zeros(1, np.float32)).data.sum()
        core = openvino.Core()
        return _OpenvinoEngine(core, core.read_model(file), limits, self.num_threads(), self.batch_tokens)


class _OpenvinoEngine(PaddedEngine):
    def __init__(self, core: Any, model: Any, limits: Limits, threads: int, batch_tokens: int) -> None:
        super().__init__(limits, threads, batch_tokens)
        self.core, self.model = core, model
        self.names = {name for tensor in model.inputs for name in tensor.get_names()}
        self._idle: dict[bool, list[Any]] = {True: [], False: [self.all_threads.create_infer_request()]}

    @cached_property
    def all_threads(self) -> Any:
        """The compiled model that runs a single group."""
        return self._compiled("LATENCY", 1)

    @cached_property
    def single_thread(self) -> Any:
        """The compiled model that runs several groups at once, one thread each; made when it is first needed."""
        return self._compiled("THROUGHPUT", self.threads)

    def _compiled(self, hint: str, streams: int) -> Any:
        settings = {"PERFORMANCE_HINT": hint, "NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": self.threads}
        return self.core.compile_model(self.model, "CPU", {**settings, "INFERENCE_PRECISION_HINT": "f32"})

    def forward_padded(self, inputs: dict[str, np.ndarray], concurrent: bool) -> np.ndarray:
        """Run a group. An inference request serves one caller at a time, and is kept for the next one."""
        try:
            request = self._idle[concurrent].pop()
        except IndexError:
            request = (self.single_thread if concurrent else self.all_threads).create_infer_request()
        states: np.ndarray = request.infer({name: inputs[name] for name in self.names})[0].copy()
        self._idle[concurrent].append(request)
        return states
