"""A Hugging Face folder run by `transformers` as in its documentation: padded batches, mean over real tokens.

Shapes: N texts, B texts of a batch of length L, K dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from encodery.base.extras import require
from encodery.evaluate.systems import OpenSystem, Role, System, Vectors
from encodery.evaluate.systems._padded import PaddingCounter, count_untruncated


@dataclass(frozen=True, kw_only=True)
class HuggingFaceSystem(System):
    """A model run by transformers. `pooling`: the mean over tokens, or the first token; `batch`: texts per batch."""

    path: str
    name: str = ""
    pooling: Literal["mean", "cls"] = "mean"
    batch: int = 32

    @property
    def label(self) -> str:
        return self.name or f"{Path(self.path).name or self.path} (transformers)"

    def open(self) -> OpenSystem:
        return _Opened(self)


class _Opened(OpenSystem):
    def __init__(self, settings: HuggingFaceSystem) -> None:
        from encodery.base.machine import device

        super().__init__(settings.label)
        library = require("transformers", "bench")
        self._tokenizer: Any = library.AutoTokenizer.from_pretrained(settings.path)
        self._model: Any = library.AutoModel.from_pretrained(settings.path).eval().to(device())
        self._settings = settings
        self._tally = PaddingCounter()
        longest = getattr(self._model.config, "max_position_embeddings", None) or 512
        self._max_length = min(self._tokenizer.model_max_length, longest)

    def encode(self, texts: Sequence[str], role: Role | None = None) -> Vectors:
        size = self._settings.batch
        with self.counters.clock():
            pieces = [self._pooled(texts[start : start + size]) for start in range(0, len(texts), size)]
        real, padding = self._tally.reset()
        self.counters.add(len(texts), real, padding, count_untruncated(self._tokenizer, texts) - real)
        return np.concatenate(pieces) if pieces else np.zeros((0, self._model.config.hidden_size), np.float32)

    def _pooled(self, texts: Sequence[str]) -> np.ndarray:
        import torch

        batch = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=self._max_length, return_tensors="pt"
        ).to(self._model.device)
        self._tally.add_batch(batch["attention_mask"])
        with torch.inference_mode():
            hidden = self._model(**batch).last_hidden_state
        if self._settings.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        vectors: np.ndarray = pooled.float().cpu().numpy()
        return vectors
