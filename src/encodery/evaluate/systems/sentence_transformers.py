"""A folder of sentence-transformers, run by that library with its own defaults. arXiv:1908.10084

It pads each batch to its longest text and cuts off what is longer than `max_seq_length` without a word: both are
counted here. Shapes: N texts, K width of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from encodery.base.extras import require
from encodery.evaluate.systems import OpenSystem, Role, System, Vectors
from encodery.evaluate.systems._padded import PaddingCounter, count_untruncated


@dataclass(frozen=True, kw_only=True)
class SentenceTransformersSystem(System):
    """`path`: its folder. `batch`: texts computed at once, the library's default."""

    path: str
    name: str = ""
    batch: int = 32

    @property
    def label(self) -> str:
        return self.name or f"{Path(self.path).name or self.path} (sentence-transformers)"

    def open(self) -> OpenSystem:
        return _Opened(self)


class _Opened(OpenSystem):
    def __init__(self, settings: SentenceTransformersSystem) -> None:
        from encodery.base.machine import device

        super().__init__(settings.label)
        library = require("sentence_transformers", "bench")
        self._model: Any = library.SentenceTransformer(settings.path, device=str(device()))
        self._batch = settings.batch
        self._tally = PaddingCounter()
        self._model[0].register_forward_pre_hook(self._count_padding)

    def _count_padding(self, module: Any, args: tuple[Any, ...]) -> None:
        if args and "attention_mask" in args[0]:
            self._tally.add_batch(args[0]["attention_mask"])

    def encode(self, texts: Sequence[str], role: Role | None = None) -> Vectors:
        prompts = self._model.prompts or {}
        prompt = role if role is not None and prompts.get(role) else None
        with self.counters.clock():
            vectors = self._model.encode(
                list(texts), batch_size=self._batch, prompt_name=prompt, show_progress_bar=False, convert_to_numpy=True
            )
        real, padding = self._tally.reset()
        before = prompts[prompt] if prompt is not None else ""
        whole = count_untruncated(self._model.tokenizer, [before + text for text in texts])
        self.counters.add(len(texts), real, padding, whole - real)
        return np.asarray(vectors, np.float32)
