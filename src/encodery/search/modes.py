"""The modes of search: BM25, one mode per kind of embedding, and hybrid, which mixes all that an index has."""

from __future__ import annotations

HYBRID = "hybrid"
BM25 = "bm25"
DENSE, SPARSE, MULTI_VECTOR = "dense", "sparse", "multi_vector"
MODEL_MODES = (DENSE, SPARSE, MULTI_VECTOR)
"""The modes that need a model, in the order in which an index lists them."""
ALL_MODES = (HYBRID, *MODEL_MODES, BM25)

MAX_QUERY_CHARS = 2000
"""The longest query that the search page and the server take."""
