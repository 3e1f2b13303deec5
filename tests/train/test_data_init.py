"""Data-dependent initialisation: counts within documents, similar embeddings of similar tokens, heads for
neighbours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encodery.base.errors import SettingsError
from encodery.base.settings import merge_tables
from encodery.model.attention.full import FullAttention
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch, Shape
from encodery.tokens import bigrams as counting
from encodery.tokens.bigrams import bigram_counts
from encodery.tokens.store import TokenStore
from encodery.train.data_init._pmi import leading_singular_vectors, positive_pmi
from encodery.train.data_init.bigrams import BigramsInit, _init_values, _neighbour_map
from encodery.train.data_init.cooccurrence import CooccurrenceInit
from encodery.train.distributed import DistributedContext
from encodery.train.launch import resume, start
from encodery.train.pretrain import PretrainJob
from encodery.train.recipe import Recipe

Table = Callable[..., Recipe[Any]]
CPU = torch.device("cpu")
COOCCURRENCE = {"data_init": {"is": "cooccurrence"}}
BIGRAMS = {"data_init": {"is": "bigrams"}, "model": {"width": 64, "heads": 2, "depth": 3}}
NARROW = Shape(
    vocab_size=192,
    width=24,
    depth=1,
    heads=2,
    head_size=8,
    intermediate_size=32,
    max_length=32,
    type_vocab_size=0,
    embedding_size=24,
    layer=0,
)
NOISE = ModelSettings(width=16, depth=1, heads=2, vocab_size=192, max_length=32)
ROTARY = {"positions": {"is": "rotary"}, "block": {"is": "pre", "first_norm": False}}


def counted_by_hand(store: Path, max_tokens: int) -> tuple[dict[tuple[int, int], int], dict[int, int]]:
    """Counts of pairs and of tokens in the first `max_tokens` tokens of the training split."""
    pairs: dict[tuple[int, int], int] = {}
    tokens: dict[int, int] = {}
    left = max_tokens
    for document in TokenStore.open(store).train:
        ids = document.tolist()
        for position, token in enumerate(ids[:left]):
            tokens[token] = tokens.get(token, 0) + 1
            if position + 1 < len(ids):
                pair = (token, ids[position + 1])
                pairs[pair] = pairs.get(pair, 0) + 1
        left -= len(ids[:left])
    return pairs, tokens


@pytest.mark.parametrize("part", [7, 1000, 10**6])
@pytest.mark.parametrize("max_tokens", [10**9, 999])
def test_pairs_are_counted_within_documents(
    store: Path, part: int, max_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "TOKENS_AT_ONCE", part)
    bigrams = bigram_counts(TokenStore.open(store).train, 192, max_tokens)
    pairs, tokens = counted_by_hand(store, max_tokens)
    keys = zip(bigrams.left.tolist(), bigrams.right.tolist(), strict=True)
    assert dict(zip(keys, bigrams.counts.tolist(), strict=True)) == pairs
    assert {n: count for n, count in enumerate(bigrams.token_counts.tolist()) if count} == tokens


def test_the_vectors_are_the_leading_ones_of_the_whole_matrix(store: Path) -> None:
    bigrams = bigram_counts(TokenStore.open(store).train, 192, 10**9)
    dense = []
    for word, context in ((bigrams.left, bigrams.right), (bigrams.right, bigrams.left)):
        count = np.zeros((192, 192))
        count[word, context] = bigrams.counts
        chance = count.sum(0) ** 0.75 / (count.sum(0) ** 0.75).sum()
        with np.errstate(divide="ignore", invalid="ignore"):
            surprise = np.log(count / (count.sum(1, keepdims=True) * chance))
        dense.append(np.where(count > 0, np.maximum(np.nan_to_num(surprise), 0), 0))
    whole = np.concatenate(dense, 1)
    for (table, turned), expected in zip(positive_pmi(bigrams), dense, strict=True):
        np.testing.assert_allclose((table @ torch.eye(192)).numpy(), expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose((turned @ torch.eye(192)).numpy(), expected.T, rtol=1e-5, atol=1e-6)
    u, s, _ = np.linalg.svd(whole)
    vectors = leading_singular_vectors(positive_pmi(bigrams), 192, 16, torch.Generator().manual_seed(0)).numpy()
    # Inner products do not depend on the rotation of the vectors.
    np.testing.assert_allclose(vectors @ vectors.T, (u[:, :16] * s[:16]) @ u[:, :16].T, atol=0.02 * s[0] / 16)
    assert np.abs(vectors).std(0).min() > 0.2 * np.abs(vectors).std(0).max(), "a dimension stands out"


def test_tokens_with_the_same_neighbours_start_similar_and_the_bias_is_their_frequency(
    table: Table, store: Path
) -> None:
    """The documents are walks on a ring of forty tokens, so neighbours on the ring have the same neighbours."""
    drawn = PretrainJob.from_recipe(table(), DistributedContext(), CPU)
    made = PretrainJob.from_recipe(table(**COOCCURRENCE), DistributedContext(), CPU)
    words, before = made.model.encoder.token_embeddings.detach(), drawn.model.encoder.token_embeddings.detach()
    seen = torch.from_numpy(bigram_counts(TokenStore.open(store).train, 192, 10**9).token_counts) > 0
    assert torch.equal(words[~seen], before[~seen]), "a token that never occurs changed"
    assert words[seen].std() == pytest.approx(0.1, rel=0.05)
    ring = torch.nn.functional.normalize(words[5:45], dim=1)
    alike = ring @ ring.T
    neighbours = torch.stack([alike[n, (n + 1) % 40] for n in range(40)]).mean()
    across = torch.stack([alike[n, (n + 20) % 40] for n in range(40)]).mean()
    assert neighbours > across + 0.5
    chance = made.model.heads["mlm"].bias.detach().softmax(0)
    share = torch.from_numpy(bigram_counts(TokenStore.open(store).train, 192, 10**9).token_counts + 1.0)
    torch.testing.assert_close(chance, (share / share.sum()).float())
    for name, p in made.model.named_parameters():
        if "word" not in name and not name.endswith("mlm.bias"):
            assert torch.equal(p, dict(drawn.model.named_parameters())[name]), name


@pytest.mark.parametrize(("width", "std"), [(16, 0.1), (128, 0.1), (256, 0.05)])
def test_the_spread_of_embeddings_falls_with_their_width(table: Table, width: int, std: float) -> None:
    """So the logits, products of a normalised state and an embedding, have the same size at all widths."""
    begun = PretrainJob.from_recipe(
        table(**merge_tables(COOCCURRENCE, {"model": {"width": width}})), DistributedContext(), CPU
    )
    seen = torch.from_numpy(bigram_counts(begun.store.train, 192, 10**9).token_counts) > 0
    assert begun.model.encoder.token_embeddings.detach()[seen].std() == pytest.approx(std, rel=0.07)


def test_equal_seeds_give_equal_embeddings_and_other_seeds_rotated_ones(table: Table) -> None:
    first, again, other = (
        PretrainJob.from_recipe(
            table(**COOCCURRENCE, train={"seed": seed}), DistributedContext(), CPU
        ).model.encoder.token_embeddings.detach()
        for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)
    torch.testing.assert_close(first[5:45] @ first[5:45].T, other[5:45] @ other[5:45].T, rtol=0.2, atol=0.02)


def test_columns_beyond_the_vocabulary_are_zero(store: Path) -> None:
    bigrams = bigram_counts(TokenStore.open(store).train, 192, 10**9)
    wide = leading_singular_vectors(positive_pmi(bigrams), 192, 200, torch.Generator().manual_seed(0))
    assert wide.shape == (192, 200)
    assert wide[:, :192].any()
    assert not wide[:, 192:].any()


def test_a_run_is_resumed_and_its_identity_names_the_initialisation(
    table: Table, tmp_path: Path, losses: Callable[[Path], Any]
) -> None:
    start(table(**COOCCURRENCE, train={"budget": "6steps"}), tmp_path / "run")
    (tmp_path / "run" / "manifest.json").unlink()
    before = losses(tmp_path / "run")
    resume(tmp_path / "run")
    assert losses(tmp_path / "run") == before
    assert (
        PretrainJob.from_recipe(table(**COOCCURRENCE), DistributedContext(), CPU).identity()["data_init"]["is"]
        == "cooccurrence"
    )


def masked_accuracy(job: PretrainJob) -> float:
    """The fraction of masked tokens that a model predicts before training, with one token masked at a time."""
    right = []
    for document in job.store.heldout:
        ids = [2, *document[:30].astype(int).tolist(), 3]
        for place in range(4, len(ids) - 4, 5):
            masked_ids = [*ids[:place], 4, *ids[place + 1 :]]
            with torch.no_grad():
                output = job.model(Batch.from_sequences([masked_ids]))
            right.append(int(output.mlm_logits(output.hidden[place : place + 1]).argmax()) == ids[place])
    return float(np.mean(right))


@pytest.mark.parametrize("model", [{}, ROTARY], ids=["learned, post-norm", "rotary, pre-norm"])
def test_bigrams_predict_masked_tokens_before_training(table: Table, model: dict[str, Any]) -> None:
    """Steps on the ring are one to three tokens long: both neighbours together leave one to three candidates of 40."""
    bigrams, cooccurrence = (
        PretrainJob.from_recipe(
            table(**merge_tables(BIGRAMS, {"data_init": begin, "model": model})), DistributedContext(), CPU
        )
        for begin in ({"is": "bigrams"}, {"is": "cooccurrence"})
    )
    assert masked_accuracy(bigrams) > 0.25
    assert masked_accuracy(cooccurrence) < 0.12


def test_the_values_of_the_first_heads_predict_the_neighbours(store: Path) -> None:
    bigrams = bigram_counts(TokenStore.open(store).train, 192, 10**9)
    words = leading_singular_vectors(
        positive_pmi(bigrams), 192, 24, torch.Generator().manual_seed(0)
    ) + 0.01 * torch.randn(192, 24)
    for table, turned in positive_pmi(bigrams):
        neighbour_map = _neighbour_map(table, turned, words)
        neighbours = torch.nn.functional.normalize(words, dim=1) * 24**0.5
        neighbours[(turned @ torch.eye(192)).sum(1) == 0] = 0
        dense = table @ torch.eye(192)
        left, right = np.linalg.pinv(words.numpy()), np.linalg.pinv(neighbours.numpy())
        exact = left @ dense.numpy() @ right.T
        near = torch.nn.functional.cosine_similarity(neighbour_map.flatten(), torch.from_numpy(exact).flatten(), 0)
        assert near > 0.98
        heads = FullAttention().build(NARROW).head_weights()
        _init_values(heads, neighbour_map)
        passed = sum(head.out @ head.value for head in heads)
        x = torch.randn(4000, 24)
        assert (x @ passed.T).square().mean() == pytest.approx(1.0, rel=0.1), "the output must be as large as the input"
        u, s, v = torch.linalg.svd(neighbour_map)
        best = (u[:, :16] * s[:16]) @ v[:16]
        torch.testing.assert_close(passed / passed.norm(), best / best.norm(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    "model",
    [
        {"positions": {"is": "alibi"}},
        {"positions": {"is": "none"}},
        {**ROTARY, "attention": {"is": "full", "bias": False}},
        {"embeddings": {"is": "factorized", "width": 24}},
    ],
    ids=["alibi", "no positions", "no biases", "narrow embeddings"],
)
def test_heads_without_an_offset_pattern_stay_random_and_the_run_warns(table: Table, model: dict[str, Any]) -> None:
    bigrams, cooccurrence = (
        PretrainJob.from_recipe(
            table(**merge_tables(BIGRAMS, {"data_init": begin, "model": model})), DistributedContext(), CPU
        )
        for begin in ({"is": "bigrams"}, {"is": "cooccurrence"})
    )
    expected = dict(cooccurrence.model.named_parameters())
    for name, weight in bigrams.model.named_parameters():
        assert torch.equal(weight, expected[name]), name
    assert bigrams.data_init_name == cooccurrence.data_init_name == "cooccurrence", (
        "its losses must be compared with those of such runs"
    )
    assert any("fell back to cooccurrence" in warning for warning in bigrams.warnings(torch.float32))
    assert not any("fell back" in warning for warning in cooccurrence.warnings(torch.float32))


@pytest.mark.parametrize("heads", [1, 3])
def test_any_number_of_heads_is_divided_between_both_directions(table: Table, heads: int) -> None:
    sizes = {"model": {"heads": heads, "head_size": 32}}
    initialised, random = (
        PretrainJob.from_recipe(
            table(**merge_tables(merge_tables(BIGRAMS, sizes), {"data_init": begin})), DistributedContext(), CPU
        ).model
        for begin in ({"is": "bigrams"}, {"is": "cooccurrence"})
    )
    for layer in range(3):
        mine, theirs = (model.encoder.blocks[layer].attention.head_weights() for model in (initialised, random))
        for one, other in zip(mine, theirs, strict=True):
            assert torch.equal(one.query, other.query) == (layer == 2), "the first two layers must attend to neighbours"
            assert torch.equal(one.value, other.value) == (layer != 0), (
                "the first layer must map neighbours to predictions"
            )
    assert torch.isfinite(initialised(Batch.from_sequences([[2, 7, 8, 3]])).hidden).all()


def test_wrong_settings_are_refused() -> None:
    for bad in ({"std": 0.0}, {"max_tokens": 0}, {"sharpness": 0.0}):
        with pytest.raises(SettingsError, match=next(iter(bad))):
            BigramsInit(**bad)
    with pytest.raises(SettingsError, match="std"):
        CooccurrenceInit(std=-1.0)


def test_a_tenth_of_the_random_embeddings_is_kept(table: Table, store: Path) -> None:
    """Without them tokens with equal statistics would have equal embeddings."""
    model, random = build_model(NOISE, seed=3), build_model(NOISE, seed=3)
    part = CooccurrenceInit()
    split = TokenStore.open(store).train
    pmi = part.init_token_embeddings(model, split, torch.Generator().manual_seed(1))
    assert pmi is not None
    occurs = torch.from_numpy(bigram_counts(split, 192, 10**9).token_counts > 0)
    vectors = leading_singular_vectors(pmi, 192, 16, torch.Generator().manual_seed(1))[occurs]
    vectors = vectors - vectors.mean(0)
    kept = model.encoder.token_embeddings.detach()[occurs] - vectors * (part.embedding_std(16) / vectors.std())
    torch.testing.assert_close(kept, 0.1 * random.encoder.token_embeddings.detach()[occurs], rtol=1e-3, atol=1e-6)
