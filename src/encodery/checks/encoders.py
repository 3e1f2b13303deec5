"""Checks of text encoders. Each takes an encoder whose model reads at most 64 tokens of a text.

Shapes: N texts, Q queries, D documents.
"""

from __future__ import annotations

import numpy as np

from encodery.base.errors import InputError
from encodery.checks import raised_message
from encodery.encoders import DOCUMENT, QUERY, TextEncoder

TEXTS = ("a river near the village", "", "the old garden", "a", "the captain of the ship near the river")


def arrays_of(encoder: TextEncoder, texts: tuple[str, ...], **options: object) -> list[np.ndarray]:
    """The embedding of each text as one dense array: (K,), or (n, K) for a vector per token."""
    embeddings = encoder.encode(list(texts), **options)  # type: ignore[arg-type]
    assert len(embeddings) == len(texts), f"{len(embeddings)} embeddings for {len(texts)} texts"
    values = [embeddings.at(index) for index in range(len(texts))]
    if encoder.kind != "sparse":
        return [np.asarray(value) for value in values]
    rows = np.zeros((len(texts), encoder.dimension), np.float32)
    for row, (term_ids, weights) in zip(rows, values, strict=True):
        row[term_ids] = weights
    return list(rows)


def check_texts_keep_their_order_and_do_not_affect_each_other(encoder: TextEncoder) -> None:
    """The embedding of a text is the same alone and among others, for any size of batch."""
    alone = [arrays_of(encoder, (text,))[0] for text in TEXTS]
    for batch_tokens in (1, 13, 10_000):
        for one, other in zip(arrays_of(encoder, TEXTS, batch_tokens=batch_tokens), alone, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


def check_dimension(encoder: TextEncoder) -> None:
    """The embeddings have the dimension that the encoder states."""
    for embedding in arrays_of(encoder, TEXTS):
        assert embedding.shape[-1] == encoder.dimension, f"{embedding.shape} for dimension {encoder.dimension}"


def check_no_texts(encoder: TextEncoder) -> None:
    """An empty list of texts gives no embeddings."""
    assert len(encoder.encode([])) == 0


def check_what_is_not_a_list_of_texts(encoder: TextEncoder) -> None:
    """A single text, and a list with a number, are errors."""
    raised_message(InputError, lambda: encoder.encode("one text"))
    assert "Text 1" in raised_message(InputError, lambda: encoder.encode(["a", 3]))  # type: ignore[list-item]


def check_long_texts(encoder: TextEncoder) -> None:
    """A long text is refused, truncated with a count of the dropped tokens, or read whole in windows."""
    long = "a " * (encoder.max_content_tokens + 5)
    assert "tokens" in raised_message(InputError, lambda: encoder.encode([long]))
    right = encoder.encode(["a", long], "right")
    assert right.dropped.tolist() == [0, 5], f"dropped {right.dropped.tolist()}"
    whole = encoder.encode(["a", long], "chunk")
    assert whole.dropped.tolist() == [0, 0], f"dropped {whole.dropped.tolist()} in windows"
    assert whole.tokens[1] == encoder.max_content_tokens + 5 + 2 * 2, "two windows with special tokens"


def check_progress_counts_all_windows(encoder: TextEncoder) -> None:
    """`progress` gets the number of windows of each batch."""
    counts: list[int] = []
    encoder.encode(list(TEXTS), batch_tokens=16, progress=counts.append)
    assert sum(counts) == len(TEXTS), f"progress counted {counts}"


def check_unknown_prompts(encoder: TextEncoder) -> None:
    """A prompt that is not stored is an error."""
    assert "no prompt" in raised_message(InputError, lambda: encoder.encode(["a"], prompt="unknown prompt"))


def check_roles_need_no_prompt(encoder: TextEncoder) -> None:
    """Texts can be encoded as queries and as documents whether prompts are stored for them or not."""
    queries = encoder.encode(list(TEXTS[:2]), role=QUERY)
    documents = encoder.encode([text for text in TEXTS if text], role=DOCUMENT)
    assert len(queries) == 2
    assert len(documents) == len(TEXTS) - 1


def check_similarity(encoder: TextEncoder) -> None:
    """Scores are a matrix (Q, D) that does not depend on which other documents are compared."""
    queries = encoder.encode(["a river", "the captain"], role=QUERY)
    documents = encoder.encode([text for text in TEXTS if text], role=DOCUMENT)
    scores = encoder.similarity(queries, documents)
    assert scores.shape == (2, len(documents)), f"the shape is {scores.shape}"
    one = type(documents).from_values([documents.at(2)])
    np.testing.assert_allclose(encoder.similarity(queries, one)[:, 0], scores[:, 2], atol=1e-5)


def check_embeddings_are_made_of_their_values(encoder: TextEncoder) -> None:
    """`from_values` of what `at` gives is equal to the embeddings."""
    embeddings = encoder.encode(list(TEXTS))
    again = type(embeddings).from_values([embeddings.at(index) for index in range(len(TEXTS))])
    for name, array in embeddings.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], array, err_msg=name)


def check_fingerprint_is_stable(encoder: TextEncoder) -> None:
    """The fingerprint of one encoder does not change."""
    assert encoder.fingerprint == encoder.fingerprint
    assert len(encoder.fingerprint) >= 16
