"""The served model of a tokenizer: texts to tokens, with nothing to compute. Shapes: N texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from encodery.serve.served_model import InferenceRequest, InferenceResult, ServedModel, TokenizedRequest
from encodery.tokens.tokenizer import Tokenizer


class TokenizeModel(ServedModel):
    """The tokens of texts, with the characters of each."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def tokenize(self, request: InferenceRequest) -> TokenizedRequest:
        """`inputs`: texts; `options`: add_special_tokens."""
        add_special_tokens = request.options.get("add_special_tokens", True)
        tokens = [self._tokens(text, add_special_tokens) for text in request.inputs["texts"]]
        return TokenizedRequest([], [], tokens)

    def _tokens(self, text: str, add_special_tokens: bool) -> list[dict[str, Any]]:
        special = self.tokenizer.special_ids
        ids, offsets = self.tokenizer.encode_with_offsets(text, add_special_tokens)
        return [
            {
                "id": number,
                "text": self.tokenizer.piece(number) if number in special else text[start:stop],
                "special": number in special,
                "start": start if stop else None,
                "stop": stop or None,
            }
            for number, (start, stop) in zip(ids.tolist(), offsets.tolist(), strict=True)
        ]

    def run(self, units: Sequence[Any]) -> list[Any]:
        """There are no units."""
        return []

    def finish(self, context: list[list[dict[str, Any]]], outputs: Sequence[Any]) -> InferenceResult:
        """`tokens` (N) lists."""
        return InferenceResult({"tokens": context}, {}, [len(tokens) for tokens in context], [0] * len(context))
