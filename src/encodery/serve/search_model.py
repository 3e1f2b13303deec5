"""The served model of an index: queries to hits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from encodery.base.errors import InputError
from encodery.search.filters import parse
from encodery.search.rerank import Scorer
from encodery.search.searcher import RERANK_WEIGHT, Searcher
from encodery.serve.served_model import InferenceRequest, InferenceResult, ServedModel, TokenizedRequest

QUERY_TOKENS = 64  # The cost of a search for scheduling, without its reranking.


class SearchModel(ServedModel):
    """Queries over an index, one at a time: an index is not made for concurrent queries."""

    max_units, exclusive = 1, True

    def __init__(
        self, searcher: Searcher, reranker: Scorer | None = None, rerank_weight: float = RERANK_WEIGHT
    ) -> None:
        self.searcher, self.reranker, self.rerank_weight = searcher, reranker, rerank_weight

    def info(self) -> dict[str, Any]:
        """See `ServedModel`."""
        store = self.searcher.store
        return {"documents": store.documents(), "passages": store.count(), "modes": list(self.searcher.modes)}

    def tokenize(self, request: InferenceRequest) -> TokenizedRequest:
        """`inputs`: query; `options`: those of `Searcher.search`, filters as strings, `weights` by mode."""
        options = {name: value for name, value in request.options.items() if value is not None}
        options["conditions"] = parse(options.pop("filters", []))
        if "weights" in options:
            if "weight" in options:
                raise InputError("weight, weights: give the weight of all models together, or the weights by mode.")
            options["weight"] = options.pop("weights")
        rerank = options.pop("rerank", self.reranker is not None)
        if rerank and self.reranker is None:
            raise InputError("rerank = true: the server was started without a reranker (--rerank MODEL).")
        options["reranker"] = self.reranker if rerank else None
        options.setdefault("rerank_weight", self.rerank_weight)
        return TokenizedRequest([(request.inputs["query"], options)], [QUERY_TOKENS])

    def run(self, units: Sequence[tuple[str, dict[str, Any]]]) -> list[Any]:
        """The searcher's result of each query."""
        return [self.searcher.search(query, **options) for query, options in units]

    def finish(self, context: Any, outputs: Sequence[Any]) -> InferenceResult:
        """`hits` with their scores, `mode`, and the seconds of each stage."""
        return InferenceResult(asdict(outputs[0]), {}, [QUERY_TOKENS], [0])
