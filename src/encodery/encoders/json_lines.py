"""Sparse and multi-vector embeddings of texts as JSON lines."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator

import numpy as np

from encodery.encoders import BATCH_TOKENS, TextEncoder
from encodery.encoders.embeddings import MultiVectorEmbeddings, SparseEmbeddings, TextEmbeddings
from encodery.tokens.tokenizer import Tokenizer

TEXTS_AT_ONCE = 4096
DIGITS = 7


def json_lines(
    encoder: TextEncoder,
    texts: Iterable[str],
    truncate: str,
    batch_tokens: int = BATCH_TOKENS,
    prompt: str | None = None,
) -> Iterator[tuple[str, int]]:
    """A JSON line and the number of dropped tokens for each text; a few thousand texts are held at a time.

    Sparse: {"terms": {token: weight, ...}}, highest weight first; multi-vector: {"vectors": [[K numbers], ...]};
    dense: {"vector": [K numbers]}.
    """
    source = iter(texts)
    while part := list(itertools.islice(source, TEXTS_AT_ONCE)):
        embeddings = encoder.encode(part, truncate, batch_tokens, prompt)
        for index in range(len(embeddings)):
            table = json_table(embeddings, index, encoder.tokenizer)
            yield json.dumps(table, ensure_ascii=False), int(embeddings.dropped[index])


def json_table(embeddings: TextEmbeddings, index: int, tokenizer: Tokenizer) -> dict[str, object]:
    """The embedding of one text as a JSON object."""
    if isinstance(embeddings, SparseEmbeddings):
        term_ids, weights = embeddings.at(index)
        order = np.argsort(-weights, kind="stable")
        # Ids that only pad the vocabulary to a multiple have no token, but can have a weight.
        tokens = [tokenizer.piece(int(term_ids[i])) or f"[{int(term_ids[i])}]" for i in order]
        return {"terms": dict(zip(tokens, (round(float(weights[i]), DIGITS) for i in order), strict=True))}
    if isinstance(embeddings, MultiVectorEmbeddings):
        return {"vectors": [[round(value, DIGITS) for value in row] for row in embeddings.at(index).tolist()]}
    return {"vector": [round(value, DIGITS) for value in embeddings.at(index).tolist()]}
