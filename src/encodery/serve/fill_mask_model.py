"""The served model of masked tokens: the most probable tokens at each [MASK] of a text. Shapes: N texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from encodery.generate.fill import FillMask
from encodery.model.load import LoadedModel
from encodery.model.network import Model
from encodery.serve.served_model import (
    InferenceRequest,
    InferenceResult,
    ServedModel,
    TokenizedRequest,
    check_finite,
)


class FillMaskModel(ServedModel):
    """The predictions of a masked-language-model head."""

    max_units = 1

    def __init__(self, loaded: LoadedModel, model: Model) -> None:
        self.tokenizer, self.model = loaded.tokenizer, model

    def info(self) -> dict[str, Any]:
        """See `ServedModel`."""
        return {"mask": self.tokenizer.roles["mask"], "max_length": self.model.settings.max_length}

    def tokenize(self, request: InferenceRequest) -> TokenizedRequest:
        """`inputs`: texts; `options`: top_k, one_by_one."""
        one_by_one = request.options.get("one_by_one", False)
        part = FillMask(top_k=request.options.get("top_k", 5), one_by_one=one_by_one)
        texts = part.encode(self.model, self.tokenizer, request.inputs["texts"])
        tokens = [len(text.ids) * (len(text.positions) if one_by_one else 1) for text in texts]
        return TokenizedRequest([(part, text) for text in texts], tokens, [len(text.ids) for text in texts])

    def run(self, units: Sequence[Any]) -> list[Any]:
        """The filled text of each unit."""
        return [part.fill(text, self.model, self.tokenizer) for part, text in units]

    def finish(self, context: list[int], outputs: Sequence[Any]) -> InferenceResult:
        """`filled` (N): the text, and the predictions of each mask."""
        filled = [{"text": one.text, "masks": [[asdict(p) for p in slot] for slot in one.slots]} for one in outputs]
        check_finite(np.array([p.probability for one in outputs for slot in one.slots for p in slot]))
        return InferenceResult({"filled": filled}, {}, context, [0] * len(context))
