"""Served models that call a text encoder for each unit: sparse and multi-vector embeddings. Shapes: N texts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from encodery.encoders import TextEncoder
from encodery.encoders.embeddings import TextEmbeddings
from encodery.encoders.text_windows import TextWindows
from encodery.serve.served_model import (
    InferenceRequest,
    InferenceResult,
    ServedModel,
    TokenizedRequest,
    check_finite,
)
from encodery.tokens.windows import parse_truncate


@dataclass(frozen=True)
class _Text:
    text: str
    truncate: str
    prompt: str | None


class EncoderModel(ServedModel):
    """Embeddings of any kind by `TextEncoder.encode`; texts with equal options are encoded together."""

    exclusive = True

    def __init__(self, text_encoder: TextEncoder, truncate: str = "error") -> None:
        self.text_encoder, self.truncate = text_encoder, parse_truncate(truncate)

    def info(self) -> dict[str, Any]:
        """See `ServedModel`."""
        encoder = self.text_encoder
        return {
            "dimension": encoder.dimension,
            "max_length": encoder.max_length,
            "prompts": dict(encoder.prompts),
            "truncate": self.truncate,
        }

    def tokenize(self, request: InferenceRequest) -> TokenizedRequest:
        """`inputs`: texts; `options`: truncate, prompt."""
        truncate, prompt = request.options.get("truncate") or self.truncate, request.options.get("prompt")
        texts, encoder = request.inputs["texts"], self.text_encoder
        windows = TextWindows.from_texts(texts, encoder.tokenizer, encoder.max_content_tokens, truncate)
        tokens = windows.tokens.tolist()
        units = [_Text(text, parse_truncate(truncate), prompt) for text in texts]
        return TokenizedRequest(units, tokens, (tokens, windows.dropped.tolist()))

    def run(self, units: Sequence[_Text]) -> list[Any]:
        """What `TextEmbeddings.at` gives for each text, with the class of the embeddings."""
        groups: dict[tuple[str, str | None], list[int]] = defaultdict(list)
        for index, unit in enumerate(units):
            groups[unit.truncate, unit.prompt].append(index)
        outputs: list[Any] = [None] * len(units)
        for (truncate, prompt), indices in groups.items():
            embeddings = self.text_encoder.encode([units[i].text for i in indices], truncate, prompt=prompt)
            for position, index in enumerate(indices):
                outputs[index] = type(embeddings), embeddings.at(position)
        return outputs

    def finish(
        self, context: tuple[list[int], list[int]], outputs: Sequence[tuple[type[TextEmbeddings], Any]]
    ) -> InferenceResult:
        """The arrays of the embeddings: `vectors`, or `term_ids` and `weights`; those of text i end at `ends[i]`."""
        embeddings = outputs[0][0].from_values([value for _, value in outputs])
        arrays = embeddings.arrays()
        check_finite(*arrays.values())
        return InferenceResult({}, arrays, *context)
