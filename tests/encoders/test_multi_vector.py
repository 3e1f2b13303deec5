"""Multi-vector embeddings: MaxSim against its formula, windows of long texts, [MASK] padding of queries."""

from __future__ import annotations

import numpy as np
import pytest
import tokenizers
import torch

from encodery.base.errors import SettingsError
from encodery.encoders.multi_vector import (
    MultiVectorEncoder,
    MultiVectorSettings,
    TokenProjection,
    max_sim,
    pad_with_mask,
    punctuation_ids,
)
from encodery.model.load import LoadedModel
from encodery.model.shape import Batch
from encodery.tokens.tokenizer import Tokenizer

CPU = torch.device("cpu")


def packed(lengths: list[int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows = torch.randn(sum(lengths), 5, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=1), torch.arange(len(lengths)).repeat_interleave(
        torch.tensor(lengths)
    )


def by_loops(left: torch.Tensor, mine: torch.Tensor, right: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    count = int(mine.max()) + 1, int(theirs.max()) + 1
    return torch.tensor(
        [
            [float((left[mine == i] @ right[theirs == j].T).amax(1).sum()) for j in range(count[1])]
            for i in range(count[0])
        ]
    )


def test_max_sim_by_its_formula() -> None:
    (queries, query), (documents, document) = packed([3, 1, 4], 0), packed([2, 6, 1, 3], 1)
    order = torch.randperm(len(documents), generator=torch.Generator().manual_seed(2))
    documents, document = documents[order], document[order]
    actual = max_sim(queries, query, documents, document, (3, 4))
    torch.testing.assert_close(actual, by_loops(queries, query, documents, document))


def test_texts_in_order_and_long_ones_in_windows(loaded: LoadedModel) -> None:
    encoder = MultiVectorEncoder(loaded.model, loaded.tokenizer, TokenProjection(32, 128), device=CPU)
    texts = ["a1 a2 b3", "", "a4", " ".join(f"b{i}" for i in range(20))]
    actual = encoder.encode(texts, truncate="chunk", batch_tokens=8)
    assert np.diff(actual.ends, prepend=0).tolist() == [5, 2, 3, 24]
    np.testing.assert_allclose(np.linalg.norm(actual.vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(actual.at(2), encoder.encode(["a4"]).vectors, atol=1e-5)
    assert encoder.encode(texts, truncate="left").dropped.tolist() == [0, 0, 0, 6]
    assert encoder.encode([]).vectors.shape == (0, 128)
    with pytest.raises(SettingsError, match="multi-vector embeddings"):
        MultiVectorEncoder.from_loaded(loaded)


def test_queries_are_filled_up_behind_their_own_tokens() -> None:
    batch = Batch.from_sequences([[2, 7, 8, 3], [2, 3], [2, 9, 10, 11, 12, 3]], [[0] * 4, [0] * 2, [1] * 6])
    actual = pad_with_mask(batch, torch.tensor([True, False, True]), 5, 4)
    assert actual.ids.tolist() == [2, 7, 8, 3, 4, 2, 3, 2, 9, 10, 11, 12, 3]
    assert actual.cu_seqlens.tolist() == [0, 5, 7, 13]
    assert actual.segment is not None
    assert actual.segment.tolist() == [0] * 7 + [1] * 6
    assert actual.max_seqlen == 6


def test_pieces_of_punctuation(words: Tokenizer) -> None:
    assert punctuation_ids(words) == []
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ",", "...", "##.", "a,", "“", "$", "##a", "–"]
    inner = tokenizers.Tokenizer(tokenizers.models.WordPiece({p: n for n, p in enumerate(pieces)}, unk_token="[UNK]"))
    inner.decoder = tokenizers.decoders.WordPiece()
    inner.add_special_tokens(pieces[:5])
    assert punctuation_ids(Tokenizer(inner)) == [5, 6, 7, 9, 10, 12]


def test_roles_differ_by_their_settings(loaded: LoadedModel) -> None:
    projection = TokenProjection(32, 16)
    settings = MultiVectorSettings(dimension=16, query_length=8, prompts={"query": "a b "})
    encoder = MultiVectorEncoder(loaded.model, loaded.tokenizer, projection, settings, CPU)
    texts = ["a1 a2 b3", "", " ".join(f"b{i}" for i in range(12))]
    query_embeddings = encoder.encode(texts, prompt="query")
    assert np.diff(query_embeddings.ends, prepend=0).tolist() == [8, 8, 16], "prompts count; longer queries stay whole"
    plain = MultiVectorEncoder(loaded.model, loaded.tokenizer, projection, MultiVectorSettings(dimension=16), CPU)
    for side in ("document", None):
        np.testing.assert_array_equal(encoder.encode(texts, prompt=side).vectors, plain.encode(texts).vectors)
    ids = [2, *loaded.tokenizer.encode("a b a1 a2 b3").tolist(), 3, 4]
    alone = encoder.token_vectors(Batch.from_sequences([ids])).detach().numpy()
    np.testing.assert_allclose(query_embeddings.at(0), alone, atol=1e-6)
    with pytest.raises(SettingsError, match=r"query_length = 99: the model reads at most 16"):
        MultiVectorEncoder(loaded.model, loaded.tokenizer, projection, MultiVectorSettings(query_length=99))
