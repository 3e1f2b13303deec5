"""The reference: the model itself, in PyTorch, on its own device unless another is named.

With `graphs` a batch is padded to the next of a few sizes, by at most an eighth, with sequences that no text attends
to, so that one compiled graph serves all batches of a size, and on CUDA is replayed as a CUDA graph. On a CPU this is
correct and slow (`ops.attention.graph`). **Neither `precision` nor `graphs` has been run on a GPU yet.**
Shapes: T tokens, B sequences, H width.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.model.network import Model
from encodery.model.reach import Reach
from encodery.model.shape import Batch, Layout
from encodery.runtimes.batch import CheckedBatch, Limits
from encodery.runtimes.engine import InferenceEngine
from encodery.runtimes.kind import Runtime

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MIN_STEP = 16  # tokens between two sizes
MAX_GRAPHS = 128  # eight sizes between a power of two and the next


@dataclass(frozen=True, kw_only=True)
class TorchRuntime(Runtime):
    """Use it on a GPU, and for models that no other runtime supports. `device`: "cpu", "cuda", "cuda:1"; the model is
    moved there (None: it stays where it is). `precision`: that of matrix products; weights and sums stay as they are;
    flash attention on CUDA needs fp16 or bf16. `graphs`: compile the model.

        encodery serve run --runtime torch,device=cuda,precision=bf16
    """

    device: str | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    graphs: bool = False

    def build(self, model: Model) -> InferenceEngine:
        if self.device is not None:
            try:
                model.to(torch.device(self.device))
            except (RuntimeError, AssertionError) as error:
                raise SettingsError(f"device = '{self.device}': {str(error).splitlines()[0]}") from error
        graphs = CompiledGraphs(model) if self.graphs else None
        return _TorchEngine(model.eval(), DTYPES[self.precision], graphs)


class _TorchEngine(InferenceEngine):
    def __init__(self, model: Model, dtype: torch.dtype, graphs: CompiledGraphs | None) -> None:
        super().__init__(Limits.of(model.settings))
        self.model, self.dtype, self.graphs = model, dtype, graphs

    def hidden_states(self, batch: CheckedBatch) -> np.ndarray:
        return self._hidden(batch) if self.graphs is None else self.graphs.thread.submit(self._hidden, batch).result()

    def _hidden(self, batch: CheckedBatch) -> np.ndarray:
        device_type = self.model.encoder.token_embeddings.device.type
        low = self.dtype != torch.float32
        with torch.inference_mode(), torch.autocast(device_type, self.dtype if low else None, enabled=low):
            compiled = None if self.graphs is None else self.graphs(batch)
            hidden = self._eager(batch) if compiled is None else compiled
            states: np.ndarray = hidden.float().cpu().numpy()
        return states

    def _eager(self, batch: CheckedBatch) -> Tensor:
        longest = int(np.diff(batch.cu_seqlens).max())
        segment = None if batch.segment is None else torch.from_numpy(batch.segment).long()
        packed = Batch(torch.from_numpy(batch.ids).long(), torch.from_numpy(batch.cu_seqlens), longest, segment)
        hidden: Tensor = self.model.encoder(packed.to(self.model.encoder.token_embeddings.device)).hidden
        return hidden


class CompiledGraphs:
    """A model's encoder, with one compiled graph for each size of a batch. `backend`: that of `torch.compile`. All
    calls are made in `thread`: a replayed graph writes where it wrote before, and belongs to the thread that made it.
    """

    def __init__(self, model: Model, backend: str | Callable[..., Any] = "inductor") -> None:
        self.model, self.max_length = model, model.settings.max_length
        self.device = model.encoder.token_embeddings.device
        self.reach = Reach()  # the compiler cannot trace a default value of `Batch` that is an object
        self.thread = ThreadPoolExecutor(1, "encodery-graphs")
        mode = "reduce-overhead" if self.device.type == "cuda" and backend == "inductor" else None
        self._run = torch.compile(self._hidden, fullgraph=True, dynamic=False, backend=backend, mode=mode)

    def __call__(self, batch: CheckedBatch) -> Tensor | None:
        """Return hidden states (T, H); None if the batch has more sequences than a graph has room for."""
        real, count = len(batch.ids), len(batch.cu_seqlens) - 1
        size = padded_size(real)
        padding = np.minimum(np.arange(1, size // 2 + 2 - count) * self.max_length + real, size)
        if len(padding) == 0 or padding[-1] < size:
            return None
        ids, segment = np.zeros(size, np.int64), np.zeros(size, np.int64)
        ids[:real] = batch.ids
        if batch.segment is not None:
            segment[:real] = batch.segment
        cu_seqlens = np.concatenate([batch.cu_seqlens, padding]).astype(np.int32)
        inputs = [torch.from_numpy(array).to(self.device) for array in (ids, cu_seqlens, segment)]
        with torch._dynamo.config.patch(recompile_limit=MAX_GRAPHS, accumulated_recompile_limit=MAX_GRAPHS):
            hidden: Tensor = self._run(*inputs)
        return hidden[:real]

    def _hidden(self, ids: Tensor, cu_seqlens: Tensor, segment: Tensor) -> Tensor:
        segments = segment if self.model.settings.type_vocab_size else None
        batch = Batch(ids, cu_seqlens, self.max_length, segments, extra={}, reach=self.reach)
        object.__setattr__(batch, "layout", Layout.precomputed(cu_seqlens, self.max_length, len(ids)))
        hidden: Tensor = self.model.encoder(batch).hidden
        return hidden


def padded_size(tokens: int) -> int:
    """Return the size that a batch of `tokens` tokens is padded to."""
    step = max(MIN_STEP, 1 << max(tokens.bit_length() - 4, 0))
    return -(-tokens // step) * step
