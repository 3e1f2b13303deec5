"""Lanes that call the library for each unit: words for masks, sparse and token vectors, searches, and tokens alone.

Shapes: N texts, V vocabulary, K width of a token's vector.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from encodery.base.errors import InputError
from encodery.encoders.multi_vector import MultiVectorEncoder
from encodery.encoders.sparse import SparseEncoder
from encodery.generate.fill import FillMask
from encodery.model.load import LoadedModel
from encodery.model.network import Model
from encodery.search.filters import parse
from encodery.search.rerank import Scorer
from encodery.search.searcher import RERANK_WEIGHT, Searcher
from encodery.serve.served_model import InferenceRequest, InferenceResult, ServedModel, TokenizedRequest, check_finite
from encodery.tokens.tokenizer import Tokenizer
from encodery.tokens.windows import parse_truncate, split_into_windows

QUERY_TOKENS = 64  # what a search counts as, beside its reranking


class FillMaskModel(ServedModel):
    """The most probable tokens where a text has a mask."""

    max_units = 1

    def __init__(self, loaded: LoadedModel, model: Model) -> None:
        self.tokenizer, self.model = loaded.tokenizer, model

    def info(self) -> dict[str, Any]:
        return {"mask": self.tokenizer.roles["mask"], "max_length": self.model.settings.max_length}

    def tokenize(self, request: InferenceRequest) -> TokenizedRequest:
        """`inputs`: texts; `options`: top, one_by_one."""
        part = FillMask(top_k=request.options.get("top", 5), one_by_one=request.options.get("one_by_one", False))
        found = part.encode(self.model, self.tokenizer, request.inputs["texts"])
        tokens = [len(one.ids) * (len(one.positions) if part.one_by_one else 1) for one in found]
        return TokenizedRequest([(part, one) for one in found], tokens, [len(one.ids) for one in found])

    def run(self, units: Sequence[Any]) -> list[Any]:
        """A `Generated` of each text."""
        return [part.filled(one, self.model, self.tokenizer) for part, one in units]

    def finish(self, context: list[int], outputs: Sequence[Any]) -> InferenceResult:
        """`filled` (N): the text, and the proposals of each mask."""
        filled = [{"text": one.text, "masks": [[asdict(p) for p in slot] for slot in one.slots]} for one in outputs]
        check_finite(np.array([p.probability for one in outputs for slot in one.slots for p in slot]))
        return InferenceResult({"filled": filled}, {}, context, [0] * len(context))


@dataclass(frozen=True)
class _Text:
    text: str
    truncate: str
    prompt: str | None


class _Encoding(ServedModel):
    """Texts given to a library's encoder, those with equal options together."""

    exclusive = True

    def __init__(self, encoder: SparseEncoder | MultiVectorEncoder, truncate: str = "error") -> None:
        self.encoder, self.truncate = encoder, parse_truncate(truncate)

    def info(self) -> dict[str, Any]:
        found = self.encoder
        told = {"width": found.dimension, "max_length": found.max_length, "prompts": found.settings.prompts}
        return told | {"truncate": self.truncate}

    def tokenize(self, request: InferenceRequest) -> TokenizedRequest:
        """`inputs`: texts; `options`: truncate, prompt."""
        policy, prompt = parse_truncate(request.options.get("truncate") or self.truncate), request.options.get("prompt")
        texts = request.inputs["texts"]
        found, dropped = split_into_windows(
            self.encoder.tokenizer.encode_batch(list(texts)), self.encoder.max_content_tokens, policy
        )
        tokens = np.bincount([w.text for w in found], [len(w.ids) + 2 for w in found], len(texts)).astype(int).tolist()
        return TokenizedRequest([_Text(text, policy, prompt) for text in texts], tokens, (tokens, dropped.tolist()))

    def run(self, units: Sequence[_Text]) -> list[Any]:
        """What the encoder gives each text: words and weights, or a vector a token (n, K)."""
        groups: dict[tuple[str, str | None], list[int]] = defaultdict(list)
        for number, unit in enumerate(units):
            groups[unit.truncate, unit.prompt].append(number)
        found: list[Any] = [None] * len(units)
        for (truncate, prompt), numbers in groups.items():
            encoded = self.encoder.encode([units[n].text for n in numbers], truncate, prompt=prompt)
            for place, number in enumerate(numbers):
                found[number] = encoded.at(place)
        return found


class SparseModel(_Encoding):
    """A weight for each of some words of the vocabulary."""

    def finish(
        self, context: tuple[list[int], list[int]], outputs: Sequence[tuple[np.ndarray, np.ndarray]]
    ) -> InferenceResult:
        """`words` and `weights`, those of text i ending at `ends[i]`."""
        words = np.concatenate([some for some, _ in outputs])
        weights = np.concatenate([some for _, some in outputs])
        check_finite(weights)
        ends = np.cumsum([len(some) for some, _ in outputs])
        return InferenceResult({}, {"words": words, "weights": weights, "ends": ends}, *context)


class MultiVectorModel(_Encoding):
    """A vector of width K for each token, compared late."""

    def finish(self, context: tuple[list[int], list[int]], outputs: Sequence[np.ndarray]) -> InferenceResult:
        """`rows` (T, K), those of text i ending at `ends[i]`."""
        rows = np.concatenate(outputs)
        check_finite(rows)
        return InferenceResult({}, {"rows": rows, "ends": np.cumsum([len(some) for some in outputs])}, *context)


class SearchModel(ServedModel):
    """Queries over an index. One after another: an index is not made for several at once."""

    max_units, exclusive = 1, True

    def __init__(
        self, searcher: Searcher, reranker: Scorer | None = None, rerank_weight: float = RERANK_WEIGHT
    ) -> None:
        self.searcher, self.reranker, self.rerank_weight = searcher, reranker, rerank_weight

    def info(self) -> dict[str, Any]:
        found = self.searcher
        counts = {"documents": found.store.documents(), "passages": found.store.count()}
        return {**counts, "modes": list(found.modes)}

    def tokenize(self, request: InferenceRequest) -> TokenizedRequest:
        """`inputs`: query; `options`: as `Searcher.search` has them, filters as they are written, `weights` by side."""
        options = {name: value for name, value in request.options.items() if value is not None}
        options["conditions"] = parse(options.pop("filters", []))
        if "weights" in options:
            if "weight" in options:
                raise InputError("weight, weights: give the share of all models together, or those by side.")
            options["weight"] = options.pop("weights")
        rerank = options.pop("rerank", self.reranker is not None)
        if rerank and self.reranker is None:
            raise InputError("rerank = true: the server was started without a model that ranks.")
        options["reranker"] = self.reranker if rerank else None
        options.setdefault("rerank_weight", self.rerank_weight)
        return TokenizedRequest([(request.inputs["query"], options)], [QUERY_TOKENS])

    def run(self, units: Sequence[tuple[str, dict[str, Any]]]) -> list[Any]:
        """An answer of the searcher for each."""
        return [self.searcher.search(query, **options) for query, options in units]

    def finish(self, context: Any, outputs: Sequence[Any]) -> InferenceResult:
        """`found`: hits with their scores, `mode`, and what each stage took."""
        return InferenceResult(asdict(outputs[0]), {}, [QUERY_TOKENS], [0])


class TokenizeModel(ServedModel):
    """Texts to tokens, nothing more."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def tokenize(self, request: InferenceRequest) -> TokenizedRequest:
        """`inputs`: texts; `options`: specials."""
        special = self.tokenizer.special_ids
        found = []
        for text in request.inputs["texts"]:
            ids, offsets = self.tokenizer.encode_with_offsets(text, request.options.get("specials", True))
            found.append(
                [
                    {
                        "id": number,
                        "text": self.tokenizer.piece(number) if number in special else text[start:stop],
                        "special": number in special,
                        "start": start if stop else None,
                        "stop": stop or None,
                    }
                    for number, (start, stop) in zip(ids.tolist(), offsets.tolist(), strict=True)
                ]
            )
        return TokenizedRequest([], [], found)

    def run(self, units: Sequence[Any]) -> list[Any]:
        """Nothing is run."""
        return []

    def finish(self, context: list[list[dict[str, Any]]], outputs: Sequence[Any]) -> InferenceResult:
        """`tokens` (N) lists."""
        return InferenceResult({"tokens": context}, {}, [len(some) for some in context], [0] * len(context))
