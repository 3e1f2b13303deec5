"""The served model of an index: queries to hits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from encodery.base.errors import InputError
from encodery.search.filters import parse
from encodery.search.searcher import Reranking, Searcher
from encodery.serve.served_model import InferenceRequest, InferenceResult, ServedModel, TokenizedRequest

QUERY_TOKENS = 64  # The cost of a search for scheduling, without its reranking.


class SearchModel(ServedModel):
    """Queries over an index, one at a time: an index is not made for concurrent queries."""

    max_units, exclusive = 1, True

    def __init__(self, searcher: Searcher, reranking: Reranking | None = None) -> None:
        self.searcher, self.reranking = searcher, reranking

    def info(self) -> dict[str, Any]:
        """See `ServedModel`."""
        index = self.searcher.index
        store = index.store
        return {"documents": store.documents(), "passages": store.count(), "modes": list(index.modes)}

    def tokenize(self, request: InferenceRequest) -> TokenizedRequest:
        """`inputs`: query; `options`: those of `Searcher.search`, filters as strings, `weights` by mode."""
        options = {name: value for name, value in request.options.items() if value is not None}
        options["conditions"] = parse(options.pop("filters", []))
        if "weights" in options:
            if "weight" in options:
                raise InputError("weight, weights: give the weight of all models together, or the weights by mode.")
            options["weight"] = options.pop("weights")
        rerank = options.pop("rerank", self.reranking is not None)
        if rerank and self.reranking is None:
            raise InputError("rerank = true: the server was started without a reranker (--rerank MODEL).")
        changes = {"top_k": options.pop("rerank_top_k", None), "weight": options.pop("rerank_weight", None)}
        if rerank and self.reranking is not None:
            own = {name: value for name, value in changes.items() if value is not None}
            options["reranking"] = replace(self.reranking, **own)
        return TokenizedRequest([(request.inputs["query"], options)], [QUERY_TOKENS])

    def run(self, units: Sequence[tuple[str, dict[str, Any]]]) -> list[Any]:
        """The searcher's result of each query."""
        return [self.searcher.search(query, **options) for query, options in units]

    def finish(self, context: Any, outputs: Sequence[Any]) -> InferenceResult:
        """`hits` with their scores, `mode`, and the seconds of each stage."""
        return InferenceResult(asdict(outputs[0]), {}, [QUERY_TOKENS], [0])
