"""The reranker that a folder is: of term weights, stored or a model's, of token vectors, or a cross-encoder."""

from __future__ import annotations

from pathlib import Path

from encodery.base.artifact import Artifact
from encodery.encoders import multi_vector, sparse
from encodery.search.precomputed_terms import KIND
from encodery.search.rerank import Reranker
from encodery.search.rerank.cross_encoder import CrossEncoder
from encodery.search.rerank.late_interaction import LateInteraction
from encodery.search.rerank.term_weights import TermWeights


def reranker_of(folder: str | Path) -> Reranker:
    """Named, not opened; what is none of the others is taken for a cross-encoder, which says what is wrong with it."""
    for artifact in Artifact.find_all(folder):
        told = artifact.manifest
        if told.kind == KIND or sparse.KEY in told.settings:
            return TermWeights(model=str(folder))
        if multi_vector.KEY in told.settings:
            return LateInteraction(model=str(folder))
    return CrossEncoder(model=str(folder))
