"""The reference: the model itself, in PyTorch, in its own precision and on its own device unless another is named.

Shapes: T tokens, H width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from encodery.base.errors import SettingsError
from encodery.model.network import Model
from encodery.model.shape import Batch
from encodery.runtimes import Engine, Runtime
from encodery.runtimes._checked import Limits, Packed


@dataclass(frozen=True, kw_only=True)
class Torch(Runtime):
    """`device`: "cpu", "cuda", "cuda:1"; the model is moved there (None: it stays where it is)."""

    device: str | None = None

    def build(self, model: Model) -> Engine:
        if self.device is not None:
            try:
                model.to(torch.device(self.device))
            except (RuntimeError, AssertionError) as error:
                raise SettingsError(f"device = '{self.device}': {str(error).splitlines()[0]}") from error
        return _TorchEngine(model.eval())


class _TorchEngine(Engine):
    def __init__(self, model: Model) -> None:
        super().__init__(Limits.of(model.settings))
        self.model = model

    def hidden(self, batch: Packed) -> np.ndarray:
        longest = int(np.diff(batch.cu_seqlens).max())
        segment = None if batch.segment is None else torch.from_numpy(batch.segment).long()
        packed = Batch(torch.from_numpy(batch.ids).long(), torch.from_numpy(batch.cu_seqlens), longest, segment)
        with torch.inference_mode():
            output = self.model.encoder(packed.to(self.model.encoder.words.device))
            found: np.ndarray = output.hidden.float().cpu().numpy()
        return found
