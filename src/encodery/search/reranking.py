"""The reranker of a folder: precomputed term weights, or a model of one of three kinds."""

from __future__ import annotations

from pathlib import Path

from encodery.base.artifact import Artifact
from encodery.search.load_retrievers import mode_of
from encodery.search.modes import MULTI_VECTOR, SPARSE
from encodery.search.precomputed_terms import KIND
from encodery.search.rerank import Reranker
from encodery.search.rerank.cross_encoder import CrossEncoder
from encodery.search.rerank.late_interaction import LateInteraction
from encodery.search.rerank.term_weights import TermWeights


def reranker_of(folder: str | Path) -> Reranker:
    """Return the reranker of a folder, not opened.

    A folder of another kind counts as a cross-encoder, which says what is wrong with it when it is opened.
    """
    mode = mode_of(folder)
    if mode == SPARSE or any(artifact.manifest.kind == KIND for artifact in Artifact.find_all(folder)):
        return TermWeights(model=str(folder))
    return LateInteraction(model=str(folder)) if mode == MULTI_VECTOR else CrossEncoder(model=str(folder))
