"""Held-out metrics: the same masked tokens for any model, length or order; the definition of each metric."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encodery.base.errors import EmptyInput
from encodery.corrupt import Vocabulary
from encodery.model.network import Model, build_model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch, Output
from encodery.objectives import Count, LossTerm, ObjectiveModule
from encodery.objectives.mlm import MaskedLM
from encodery.tokens.store import SpecialTokens, TokenStore
from encodery.train.distributed import DistributedContext
from encodery.train.heldout import heldout_batches, heldout_mask, score_mlm, score_objective


@pytest.fixture
def opened(store: Path) -> TokenStore:
    return TokenStore.open(store)


@pytest.fixture
def vocabulary(opened: TokenStore) -> Vocabulary:
    return Vocabulary.of(opened.tokenizer)


def requests(batches: list[Batch], mask_id: int) -> list[tuple[int, int, int]]:
    """(token before, label, token after) of every masked token, in a fixed order."""
    result = []
    for batch in batches:
        assert (batch.ids[batch.extra["masked_positions"]] == mask_id).all()
        assert int((batch.ids == mask_id).sum()) == batch.extra["masked_positions"].numel()
        result += batch.extra["labels"].tolist()
    return sorted(result)


def rows(batch: Batch) -> list[np.ndarray]:
    """The sequences of a batch."""
    return np.split(batch.ids.numpy(), batch.cu_seqlens[1:-1].tolist())


def test_masked_tokens_are_the_same_for_every_length_and_batch(opened: TokenStore, vocabulary: Vocabulary) -> None:
    split = opened.heldout
    made = [
        list(heldout_batches(split, vocabulary, length, batch_tokens=size))
        for length, size in ((32, 8192), (16, 100), (512, 300))
    ]
    first, *others = (requests(batches, vocabulary.mask_id) for batches in made)
    assert all(other == first for other in others)
    assert max(int(batch.cu_seqlens.diff().max()) for batch in made[1]) <= 16
    tokens = sum(batch.tokens for batch in made[2]) - 2 * sum(len(batch) for batch in made[2])
    assert tokens == split.tokens
    assert len(first) / tokens == pytest.approx(0.15, abs=0.03)
    again = requests(list(heldout_batches(split, vocabulary, 32, seed=1)), vocabulary.mask_id)
    assert again != first


def test_masks_depend_on_the_document_and_never_cover_special_tokens(vocabulary: Vocabulary) -> None:
    ids = np.arange(5, 185).repeat(20)
    special = vocabulary.special.numpy()
    assert heldout_mask(ids, special).mean() == pytest.approx(0.15, abs=0.02)
    assert not heldout_mask(np.zeros(1000, np.int64), special).any()
    other = ids.copy()
    other[0] += 1
    assert (heldout_mask(ids, special) != heldout_mask(other, special)).any()


def test_about_as_many_tokens_as_asked_for_are_used(opened: TokenStore, vocabulary: Vocabulary) -> None:
    whole = list(heldout_batches(opened.heldout, vocabulary, 32))
    every = sum(batch.tokens for batch in whole)
    assert every > 300
    for tokens in (1, 200, every // 2, every, 10 * every):
        part = list(heldout_batches(opened.heldout, vocabulary, 32, tokens=tokens))
        assert abs(sum(batch.tokens for batch in part) - min(tokens, every)) <= 32
        left = Counter(row.tobytes() for batch in whole for row in rows(batch))
        left.subtract(row.tobytes() for batch in part for row in rows(batch))
        assert min(left.values()) == 0, "the masked tokens of a part are masked in the whole"


class Even:
    """A split of 30 documents of 600 tokens, each of which repeats another token."""

    tokens, lengths = 18_000, np.full(30, 600)

    def __init__(self, specials: SpecialTokens) -> None:
        self.special_tokens = specials

    def __len__(self) -> int:
        return 30

    def __getitem__(self, number: int) -> np.ndarray:
        return np.full(600, 100 + number)


def test_a_part_comes_from_all_over_the_split(opened: TokenStore, vocabulary: Vocabulary) -> None:
    split: Any = Even(opened.heldout.special_tokens)
    for tokens, documents in ((30 * 62, 30), (10 * 62, 10)):
        part = list(heldout_batches(split, vocabulary, 62, tokens=tokens))
        words = Counter(torch.cat([batch.extra["labels"] for batch in part]).tolist())
        assert len(words) == documents


def test_metrics_of_an_untrained_model(opened: TokenStore, vocabulary: Vocabulary) -> None:
    model = build_model(ModelSettings(width=16, depth=1, heads=2, vocab_size=192, max_length=32, dropout=0.5))
    with torch.no_grad():
        for p in model.heads.parameters():
            p.zero_()
    model.train()
    split = opened.heldout
    result = score_mlm(model, heldout_batches(split, vocabulary, 32), split.tokens / split.bytes)
    assert result["loss"] == pytest.approx(math.log(192), rel=1e-6)
    assert result["perplexity"] == pytest.approx(192, rel=1e-5)
    assert result["bits_per_byte"] == pytest.approx(math.log2(192) / 4), "a made-up token covers four bytes"
    assert result["accuracy"] == 1.0, "no other token has a higher score"
    assert model.training
    batches = list(heldout_batches(split, vocabulary, 32))
    assert result["predicted"] == sum(batch.extra["masked_positions"].numel() for batch in batches)
    assert result["tokens"] == sum(batch.tokens for batch in batches)


def test_scores_do_not_depend_on_the_batches(opened: TokenStore, vocabulary: Vocabulary) -> None:
    model = build_model(ModelSettings(width=16, depth=1, heads=2, vocab_size=192, max_length=32), seed=3)
    one, two = (
        score_mlm(model, heldout_batches(opened.heldout, vocabulary, 32, batch_tokens=size), 0.25)
        for size in (64, 8192)
    )
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-6)
    assert one["accuracy"] == two["accuracy"]


class TwoRanks:
    """The ranks of a run in one process: the sums of rank 1 are kept, and added to those of rank 0."""

    world = 2

    def __init__(self) -> None:
        self.rank = 1
        self.sums: list[torch.Tensor] = []

    def all_reduce(self, tensor: torch.Tensor) -> None:
        if self.rank == 1:
            self.sums.append(tensor.clone())
        else:
            tensor += self.sums.pop()


@pytest.mark.parametrize("size", [64, 100_000], ids=["several batches", "one batch"])
def test_ranks_add_up_to_the_whole(opened: TokenStore, vocabulary: Vocabulary, size: int) -> None:
    """A rank that has no batch adds nothing, and takes part in the sum."""
    settings = ModelSettings(width=16, depth=1, heads=2, vocab_size=192, max_length=32)
    model = build_model(settings, seed=3).train()
    objective = MaskedLM().build(settings, vocabulary)

    def score(distributed: Any) -> dict[str, float]:
        batches = heldout_batches(opened.heldout, vocabulary, 32, batch_tokens=size)
        return score_objective(model, objective, batches, 0.25, distributed)

    whole = score(DistributedContext())
    ranks = TwoRanks()
    score(ranks)
    ranks.rank = 0
    assert score(ranks) == pytest.approx(whole)
    assert model.training
    assert objective.training
    expected = score_mlm(model, heldout_batches(opened.heldout, vocabulary, 32, batch_tokens=size), 0.25)
    assert {name: expected[name] for name in whole} == whole


class Doubled(ObjectiveModule):
    """Twice the loss of masked language modelling."""

    def __init__(self, settings: ModelSettings, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.inner, self.mask_id = MaskedLM().build(settings, vocabulary), vocabulary.mask_id

    def prepare(self, batch: Batch, generator: torch.Generator, progress: float) -> Batch:
        assert not (batch.ids == self.mask_id).any(), "the masked tokens are put back"
        return self.inner.prepare(batch, generator, progress)

    def counts(self, batch: Batch) -> dict[str, Count]:
        return self.inner.counts(batch)

    def loss(self, model: Model, output: Output, batch: Batch) -> dict[str, LossTerm]:
        terms = self.inner.loss(model, output, batch)
        return {name: dataclasses.replace(term, weight=2 * term.weight) for name, term in terms.items()}


def test_an_objective_is_judged_by_what_it_trains(opened: TokenStore, vocabulary: Vocabulary) -> None:
    """By default the loss of the objective on batches that it prepares, with the same draws each time."""
    settings = ModelSettings(width=16, depth=1, heads=2, vocab_size=192, max_length=32)
    model, objective = build_model(settings, seed=3), Doubled(settings, vocabulary)
    batches = list(heldout_batches(opened.heldout, vocabulary, 32))
    first, second = (score_objective(model, objective, batches, 0.25, DistributedContext()) for _ in range(2))
    assert first == second
    assert first["loss"] == pytest.approx(2 * first["mlm"])
    assert first["mlm"] != pytest.approx(score_mlm(model, batches, 0.25)["loss"], rel=1e-4), "other tokens are masked"
    assert "bits_per_byte" not in first


def test_nothing_to_judge_gives_no_metrics(vocabulary: Vocabulary) -> None:
    settings = ModelSettings(width=16, depth=1, heads=2, vocab_size=192, max_length=32)
    model, objective = build_model(settings), MaskedLM().build(settings, vocabulary)
    assert score_objective(model, objective, [], 0.25, DistributedContext()) == {}
    empty = Batch.from_sequences([[1, 2]]).with_ids(
        torch.tensor([1, 2]),
        masked_positions=torch.tensor([], dtype=torch.long),
        labels=torch.tensor([], dtype=torch.long),
    )
    assert score_objective(model, objective, [empty], 0.25, DistributedContext()) == {}


def test_no_masked_token_is_an_error() -> None:
    model = build_model(ModelSettings(width=16, depth=1, heads=2, vocab_size=192))
    with pytest.raises(EmptyInput, match="nothing to score"):
        score_mlm(model, [], 0.25)
