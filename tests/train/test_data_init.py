"""What a new model knows before its first step: neighbours are counted within documents, words alike begin alike."""

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

Table = Callable[..., dict[str, Any]]
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
ROTARY = {"positions": {"is": "rotary"}, "block": {"is": "pre", "first_norm": False}}


def by_hand(store: Path, most: int) -> tuple[dict[tuple[int, int], int], dict[int, int]]:
    pairs: dict[tuple[int, int], int] = {}
    seen: dict[int, int] = {}
    left = most
    for document in TokenStore.open(store).train:
        ids = document.tolist()
        for place, token in enumerate(ids[:left]):
            seen[token] = seen.get(token, 0) + 1
            if place + 1 < len(ids):
                pair = (token, ids[place + 1])
                pairs[pair] = pairs.get(pair, 0) + 1
        left -= len(ids[:left])
    return pairs, seen


@pytest.mark.parametrize("part", [7, 1000, 10**6])
@pytest.mark.parametrize("most", [10**9, 999])
def test_pairs_are_counted_within_documents(store: Path, part: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "PART", part)
    split = TokenStore.open(store).train
    found = bigram_counts(split, 192, most)
    pairs, seen = by_hand(store, most)
    told = dict(zip(zip(found.left.tolist(), found.right.tolist(), strict=True), found.counts.tolist(), strict=True))
    assert told == pairs
    assert {n: count for n, count in enumerate(found.token_counts.tolist()) if count} == seen


def test_the_vectors_are_the_leading_ones_of_the_whole_matrix(store: Path) -> None:
    found = bigram_counts(TokenStore.open(store).train, 192, 10**9)
    dense = []
    for word, context in ((found.left, found.right), (found.right, found.left)):
        count = np.zeros((192, 192))
        count[word, context] = found.counts
        chance = count.sum(0) ** 0.75 / (count.sum(0) ** 0.75).sum()
        with np.errstate(divide="ignore", invalid="ignore"):
            surprise = np.log(count / (count.sum(1, keepdims=True) * chance))
        dense.append(np.where(count > 0, np.maximum(np.nan_to_num(surprise), 0), 0))
    whole = np.concatenate(dense, 1)
    for (table, turned), wanted in zip(positive_pmi(found), dense, strict=True):
        np.testing.assert_allclose((table @ torch.eye(192)).numpy(), wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose((turned @ torch.eye(192)).numpy(), wanted.T, rtol=1e-5, atol=1e-6)
    u, s, _ = np.linalg.svd(whole)
    vectors = leading_singular_vectors(positive_pmi(found), 192, 16, torch.Generator().manual_seed(0)).numpy()
    # Inner products do not see how the vectors are turned.
    np.testing.assert_allclose(vectors @ vectors.T, (u[:, :16] * s[:16]) @ u[:, :16].T, atol=0.02 * s[0] / 16)
    assert np.abs(vectors).std(0).min() > 0.2 * np.abs(vectors).std(0).max(), "no dimension stands out"


def test_words_between_the_same_neighbours_begin_alike_and_are_guessed_by_frequency(table: Table, store: Path) -> None:
    """The store's documents are walks on a ring of forty words, so neighbours on the ring share their neighbours."""
    drawn = PretrainJob.from_recipe(table(), DistributedContext(), CPU)
    made = PretrainJob.from_recipe(table(**COOCCURRENCE), DistributedContext(), CPU)
    words, before = made.model.encoder.token_embeddings.detach(), drawn.model.encoder.token_embeddings.detach()
    seen = torch.from_numpy(bigram_counts(TokenStore.open(store).train, 192, 10**9).token_counts) > 0
    assert torch.equal(words[~seen], before[~seen]), "what was never seen is as it was drawn"
    assert words[seen].std() == pytest.approx(0.1, rel=0.05)
    ring = torch.nn.functional.normalize(words[5:45], dim=1)
    alike = ring @ ring.T
    beside = torch.stack([alike[n, (n + 1) % 40] for n in range(40)]).mean()
    across = torch.stack([alike[n, (n + 20) % 40] for n in range(40)]).mean()
    assert beside > across + 0.5
    chance = made.model.heads["mlm"].bias.detach().softmax(0)
    share = torch.from_numpy(bigram_counts(TokenStore.open(store).train, 192, 10**9).token_counts + 1.0)
    torch.testing.assert_close(chance, (share / share.sum()).float())
    for name, p in made.model.named_parameters():
        if "word" not in name and not name.endswith("mlm.bias"):
            assert torch.equal(p, dict(drawn.model.named_parameters())[name]), name


@pytest.mark.parametrize(("width", "std"), [(16, 0.1), (128, 0.1), (256, 0.05)])
def test_the_wider_the_table_the_narrower_its_values(table: Table, width: int, std: float) -> None:
    """So that the logits, products of a normalised state with a word, begin alike at all widths."""
    begun = PretrainJob.from_recipe(
        table(**merge_tables(COOCCURRENCE, {"model": {"width": width}})), DistributedContext(), CPU
    )
    seen = torch.from_numpy(bigram_counts(begun.store.train, 192, 10**9).token_counts) > 0
    assert begun.model.encoder.token_embeddings.detach()[seen].std() == pytest.approx(std, rel=0.07)


def test_the_same_seed_begins_alike_and_another_otherwise(table: Table) -> None:
    first, again, other = (
        PretrainJob.from_recipe(
            table(**COOCCURRENCE, train={"seed": seed}), DistributedContext(), CPU
        ).model.encoder.token_embeddings.detach()
        for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)
    torch.testing.assert_close(first[5:45] @ first[5:45].T, other[5:45] @ other[5:45].T, rtol=0.2, atol=0.02)


def test_a_table_wider_than_there_are_words_ends_in_zeros(store: Path) -> None:
    found = bigram_counts(TokenStore.open(store).train, 192, 10**9)
    wide = leading_singular_vectors(positive_pmi(found), 192, 200, torch.Generator().manual_seed(0))
    assert wide.shape == (192, 200)
    assert wide[:, :192].any()
    assert not wide[:, 192:].any()


def test_a_run_is_resumed_as_it_was_and_older_ones_stay_themselves(
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


def hidden_words(job: PretrainJob) -> float:
    """The share of hidden words that a model names before it has learned, one hidden in each held-out document."""
    right = []
    for document in job.store.heldout:
        ids = [2, *document[:30].astype(int).tolist(), 3]
        for place in range(4, len(ids) - 4, 5):
            asked = [*ids[:place], 4, *ids[place + 1 :]]
            with torch.no_grad():
                output = job.model(Batch.from_sequences([asked]))
            right.append(int(output.mlm_logits(output.hidden[place : place + 1]).argmax()) == ids[place])
    return float(np.mean(right))


@pytest.mark.parametrize("model", [{}, ROTARY], ids=["learned, norms behind", "rotary, norms first"])
def test_a_model_that_begins_with_bigrams_names_hidden_words_before_it_learns(
    table: Table, model: dict[str, Any]
) -> None:
    """Steps on the ring are one to three words: both neighbours leave one to three words, one of them 1 to 3 of 40."""
    begun, words = (
        PretrainJob.from_recipe(
            table(**merge_tables(BIGRAMS, {"data_init": begin, "model": model})), DistributedContext(), CPU
        )
        for begin in ({"is": "bigrams"}, {"is": "cooccurrence"})
    )
    assert hidden_words(begun) > 0.25
    assert hidden_words(words) < 0.12


def test_what_first_heads_init_values_tells_which_words_stand_beside(store: Path) -> None:
    found = bigram_counts(TokenStore.open(store).train, 192, 10**9)
    words = leading_singular_vectors(
        positive_pmi(found), 192, 24, torch.Generator().manual_seed(0)
    ) + 0.01 * torch.randn(192, 24)
    for table, turned in positive_pmi(found):
        told = _neighbour_map(table, turned, words)
        beside = torch.nn.functional.normalize(words, dim=1) * 24**0.5
        beside[(turned @ torch.eye(192)).sum(1) == 0] = 0
        dense = table @ torch.eye(192)
        left, right = np.linalg.pinv(words.numpy()), np.linalg.pinv(beside.numpy())
        exact = left @ dense.numpy() @ right.T
        near = torch.nn.functional.cosine_similarity(told.flatten(), torch.from_numpy(exact).flatten(), 0)
        assert near > 0.98
        heads = FullAttention().build(NARROW).head_weights()
        _init_values(heads, told)
        passed = sum(head.out @ head.value for head in heads)
        x = torch.randn(4000, 24)
        assert (x @ passed.T).square().mean() == pytest.approx(1.0, rel=0.1), "as large as what comes in"
        u, s, v = torch.linalg.svd(told)
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
    ids=["alibi", "no positions", "no biases", "narrow table"],
)
def test_heads_that_cannot_be_aimed_stay_as_they_were_drawn_and_the_run_says_so(
    table: Table, model: dict[str, Any]
) -> None:
    begun, words = (
        PretrainJob.from_recipe(
            table(**merge_tables(BIGRAMS, {"data_init": begin, "model": model})), DistributedContext(), CPU
        )
        for begin in ({"is": "bigrams"}, {"is": "cooccurrence"})
    )
    theirs = dict(words.model.named_parameters())
    for name, weight in begun.model.named_parameters():
        assert torch.equal(weight, theirs[name]), name
    assert begun.data_init_name == words.data_init_name == "cooccurrence", (
        "and its losses are judged as those of such runs"
    )
    assert any("fell back to cooccurrence" in said for said in begun.warnings(torch.float32))
    assert not any("fell back" in said for said in words.warnings(torch.float32))


@pytest.mark.parametrize("heads", [1, 3])
def test_any_number_of_heads_is_shared_between_both_sides(table: Table, heads: int) -> None:
    sizes = {"model": {"heads": heads, "head_size": 32}}
    begun, drawn = (
        PretrainJob.from_recipe(
            table(**merge_tables(merge_tables(BIGRAMS, sizes), {"data_init": begin})), DistributedContext(), CPU
        ).model
        for begin in ({"is": "bigrams"}, {"is": "cooccurrence"})
    )
    for layer in range(3):
        mine, theirs = (model.encoder.blocks[layer].attention.head_weights() for model in (begun, drawn))
        for one, other in zip(mine, theirs, strict=True):
            assert torch.equal(one.query, other.query) == (layer == 2), "the first two layers look at neighbours"
            assert torch.equal(one.value, other.value) == (layer != 0), "the first passes on what they tell"
    assert torch.isfinite(begun(Batch.from_sequences([[2, 7, 8, 3]])).hidden).all()


def test_settings_are_checked() -> None:
    for bad in ({"std": 0.0}, {"max_tokens": 0}, {"sharpness": 0.0}):
        with pytest.raises(SettingsError, match=next(iter(bad))):
            BigramsInit(**bad)
    with pytest.raises(SettingsError, match="std"):
        CooccurrenceInit(std=-1.0)
