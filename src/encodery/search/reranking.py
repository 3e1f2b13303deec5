"""The reranker that a folder is: of term weights, stored or a model's, or a cross-encoder."""

from __future__ import annotations

from pathlib import Path

from encodery.base.artifact import MANIFEST, Artifact
from encodery.embed.sparse import KEY
from encodery.search.rerank import Reranker
from encodery.search.rerank.cross_encoder import CrossEncoder
from encodery.search.rerank.term_weights import TermWeights
from encodery.search.weighed import KIND


def reranker_of(folder: str | Path) -> Reranker:
    """Named, not opened; what is neither is taken for a cross-encoder, which says what is wrong with it."""
    for place in (Path(folder), Path(folder) / "model"):
        if (place / MANIFEST).is_file():
            told = Artifact.open(place).manifest
            if told.kind == KIND or KEY in told.settings:
                return TermWeights(model=str(folder))
    return CrossEncoder(model=str(folder))
