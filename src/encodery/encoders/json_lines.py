"""Sparse and multi-vector encodings as JSON lines, for models that were trained to make them.

Shapes: N texts, V vocabulary, K width of a token's vector.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator

import numpy as np

from encodery.encoders.dense import BATCH_TOKENS, TEXTS_AT_ONCE
from encodery.encoders.multi_vector import KEY as TOKENS
from encodery.encoders.multi_vector import MultiVectorEmbeddings, MultiVectorEncoder
from encodery.encoders.sparse import KEY as SPARSE
from encodery.encoders.sparse import SparseEmbeddings, SparseEncoder
from encodery.model.load import LoadedModel

DIGITS = 7


def kind_of(loaded: LoadedModel) -> str:
    """dense, sparse or tokens: what the model was trained to make of a text."""
    return "sparse" if SPARSE in loaded.settings else "tokens" if TOKENS in loaded.settings else "dense"


def json_lines(
    loaded: LoadedModel,
    texts: Iterable[str],
    truncate: str,
    batch_tokens: int = BATCH_TOKENS,
    prompt: str | None = None,
) -> Iterator[tuple[str, int]]:
    """A JSON line and the number of dropped tokens for each text, a few thousand texts at a time.

    Sparse: {"words": {piece: weight, ...}}, heaviest first; tokens: {"vectors": [[K numbers], ...]}.
    """
    source = iter(texts)
    sparse = SparseEncoder.from_loaded(loaded) if kind_of(loaded) == "sparse" else None
    tokens = MultiVectorEncoder.from_loaded(loaded) if sparse is None else None
    while some := list(itertools.islice(source, TEXTS_AT_ONCE)):
        if sparse is not None:
            yield from _sparse(sparse, sparse.encode(some, truncate, batch_tokens, prompt))
        elif tokens is not None:
            yield from _tokens(tokens.encode(some, truncate, batch_tokens, prompt))


def _sparse(encoder: SparseEncoder, found: SparseEmbeddings) -> Iterator[tuple[str, int]]:
    for number in range(len(found)):
        words, weights = found.at(number)
        order = np.argsort(-weights, kind="stable")
        table = {_piece(encoder, int(words[i])): round(float(weights[i]), DIGITS) for i in order}
        yield json.dumps({"words": table}, ensure_ascii=False), int(found.dropped[number])


def _piece(encoder: SparseEncoder, number: int) -> str:
    """The piece of an id; ids that only fill up the vocabulary can have weights too, and are told by number."""
    return encoder.tokenizer.piece(number) or f"[{number}]"


def _tokens(found: MultiVectorEmbeddings) -> Iterator[tuple[str, int]]:
    for number in range(len(found)):
        rows = [[round(value, DIGITS) for value in row] for row in found.at(number).tolist()]
        yield json.dumps({"vectors": rows}), int(found.dropped[number])
