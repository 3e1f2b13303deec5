"""How tokens of two texts match: equal to a computation by sequence, within a row, trained, and never exported."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.encoders.packing import pack_sequences
from encodery.export.hf import HFExporter
from encodery.export.sentence_transformers import SentenceTransformersExporter
from encodery.finetune.auto import auto
from encodery.finetune.heads.token_matching import NUM_FEATURES, TEXT_INDEX, TokenMatching, best_matches, text_indices
from encodery.finetune.planning import plan_finetuning
from encodery.finetune.predict import Predictor
from encodery.finetune.preprocess import Preprocessor
from encodery.model.load import LoadedModel, load_model
from encodery.model.shape import Batch
from encodery.tokens.tokenizer import Tokenizer
from encodery.train.launch import start

WIDTH = 8
PAIRS = ((4, 3), (1, 6), (2, 2), (5, 0), (0, 3), (7, 1))
"""Tokens of the first and the second text of each sequence."""
SMALL: dict[str, Any] = {"epochs": 8, "optim": {"lr": 2e-3}, "train": {"threads": 1, "precision": "fp32", "evals": 1}}


def batch_of(pairs: tuple[tuple[int, int], ...], seed: int = 0) -> tuple[Tensor, Batch]:
    """Random states of sequences [CLS] a [SEP] b [SEP], with their marks."""
    draw = np.random.default_rng(seed)
    packed = pack_sequences([draw.integers(0, 5, one + 1 + other) for one, other in pairs], 100, 101)
    marks = [[0, *[1] * one, 0, *[2] * other, 0] for one, other in pairs]
    side = torch.tensor([mark for some in marks for mark in some], dtype=torch.uint8)
    batch = Batch(packed.ids, packed.cu_seqlens, packed.max_seqlen, None, {TEXT_INDEX: side})
    return torch.randn(len(side), WIDTH, generator=torch.Generator().manual_seed(seed)) + 3, batch


def parted(values: Tensor, batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """States, or ids, of the two texts of each sequence."""
    cu, side = batch.cu_seqlens.tolist(), batch.extra[TEXT_INDEX]
    spans = [slice(start, stop) for start, stop in itertools.pairwise(cu)]
    return [(values[span][side[span] == 1], values[span][side[span] == 2]) for span in spans]


def counted(
    states: tuple[Tensor, Tensor], ids: tuple[Tensor, Tensor], weigh: Callable[[Tensor], Tensor]
) -> list[float]:
    """The features of one sequence, as the docstring has them."""
    one, other = states
    if not len(one) or not len(other):
        return [0.0] * NUM_FEATURES
    cosines = F.normalize(one, dim=1) @ F.normalize(other, dim=1).T
    best = cosines.amax(1), cosines.amax(0)
    weights = F.softplus(weigh(one)[:, 0]), F.softplus(weigh(other)[:, 0])
    features: list[Any] = [values.mean() for values in best]
    features += [values.amin() for values in best]
    features += [values.sort().values[:3].mean() for values in best]
    features += [torch.sigmoid(20 * (values - 0.9)).mean() for values in best]
    there = [torch.isin(mine, others).float() for mine, others in (ids, ids[::-1])]
    features += [values.mean() for values in there]
    features += [(weight * values).sum() / weight.sum() for weight, values in zip(weights, best, strict=True)]
    features += [(weight * values).sum() / weight.sum() for weight, values in zip(weights, there, strict=True)]
    features.append(F.cosine_similarity(one.mean(0), other.mean(0), dim=0))
    return [float(value) for value in features]


def test_features_are_those_of_each_sequence_alone() -> None:
    hidden, batch = batch_of(PAIRS)
    torch.manual_seed(1)
    module = TokenMatching(WIDTH)
    torch.nn.init.normal_(module.token_weight.weight)
    module.state_mean.copy_(torch.randn(WIDTH) + 3)
    module.whitening.copy_(torch.randn(WIDTH, WIDTH))
    with torch.no_grad():
        actual = module(hidden, batch)
        states = (hidden - module.state_mean) @ module.whitening
        both = zip(parted(states, batch), parted(batch.ids, batch), strict=True)
        expected = torch.tensor([counted(some, ids, module.token_weight) for some, ids in both])
    assert actual.shape == (len(PAIRS), NUM_FEATURES)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    assert actual[:3].std() > 0.1, "features that are all alike would prove nothing"


def test_what_matches_lies_in_the_other_text_of_the_same_sequence() -> None:
    hidden, batch = batch_of(PAIRS)
    side, sequence = batch.extra[TEXT_INDEX].long(), batch.layout.sequence_ids
    best, exact = best_matches(F.normalize(hidden, dim=1), side, batch)
    partner = torch.tensor([one > 0 and other > 0 for one, other in PAIRS])[sequence] & (side > 0)
    assert (best[~partner] == -1).all()
    assert (exact[~partner] == 0).all()
    assert 0 < exact[partner].mean() < 1
    assert (side[best[partner]] == 3 - side[partner]).all()
    assert (sequence[best[partner]] == sequence[partner]).all()


def test_fitted_states_are_white_and_features_standardised() -> None:
    pairs = tuple((3 + number % 5, 2 + number % 7) for number in range(400))
    hidden, batch = batch_of(pairs)
    hidden = hidden @ torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(2)) + 5
    module = TokenMatching(WIDTH)
    module.fit([(hidden, batch)])
    states = ((hidden - module.state_mean) @ module.whitening)[batch.extra[TEXT_INDEX] > 0]
    assert float(states.mean(0).abs().max()) < 1e-3
    before = torch.cov(hidden[batch.extra[TEXT_INDEX] > 0].T)
    floored = before + 0.01 * before.diagonal().mean() * torch.eye(WIDTH)
    torch.testing.assert_close(torch.cov(states.T), before @ torch.linalg.inv(floored), atol=1e-4, rtol=0)
    assert float(torch.cov(states.T).diagonal().min()) > 0.7
    assert float(module.whitening.sub(module.whitening.T).abs().max()) < 1e-5, "the least change that whitens"
    with torch.no_grad():
        actual = module(hidden, batch)
    torch.testing.assert_close(actual.mean(0), torch.zeros(NUM_FEATURES), atol=1e-4, rtol=0)
    torch.testing.assert_close(actual.std(0), torch.ones(NUM_FEATURES), atol=1e-2, rtol=0)


def test_gradients_reach_states_and_weights_of_tokens() -> None:
    hidden, batch = batch_of(PAIRS)
    hidden.requires_grad_()
    module = TokenMatching(WIDTH)
    (module(hidden, batch) * torch.arange(1.0, 1 + NUM_FEATURES)).sum().backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None
    assert module.token_weight.weight.grad is not None
    reached = hidden.grad.abs().sum(1) > 0
    apart = torch.tensor([one > 0 and other > 0 for one, other in PAIRS])[batch.layout.sequence_ids]
    assert torch.equal(reached, apart & (batch.extra[TEXT_INDEX] > 0))
    assert module.token_weight.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("between", [1, 2])
@pytest.mark.parametrize("truncate", ["right", "left", "chunk"])
def test_marks_say_which_text_a_token_is_of(
    tokenizer: Tokenizer, truncate: Any, between: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Preprocessor, "_num_separators", property(lambda _: between))  # RoBERTa's tokenizer has two.
    reader = Preprocessor(tokenizer, 24, True, truncate)
    firsts, seconds = ["red dog", "", "one two", "six"], ["one two six", "sun", "", " ".join(["cat"] * 30)]
    encoded, _ = reader.encode_pairs(firsts, seconds)
    assert len(encoded[3]) == (2 if truncate == "chunk" else 1)
    for first, pieces in zip(firsts, encoded, strict=True):
        for piece in pieces:
            marks = text_indices(piece)
            assert tokenizer.decode(piece.ids[marks == 1].tolist()) == first
            assert set(piece.ids[marks == 0].tolist()) == {tokenizer.cls_id, tokenizer.sep_id}
            assert (marks == 0).sum() == 2 + between
            assert (np.flatnonzero(marks == 2) >= piece.second_start).all()


def overlapping(count: int, seed: int) -> dict[str, list[Any]]:
    """Pairs that share all their words, in another order, or none: nothing else tells the labels apart."""
    draw = np.random.default_rng(seed)
    words = np.array(["red", "green", "blue", "one", "two", "six", "cat", "dog", "sun", "sky"])
    columns: dict[str, list[Any]] = {"text": [], "text_b": [], "label": []}
    for row in range(count):
        some = draw.permutation(words)
        columns["text"].append(" ".join(some[:4]))
        columns["text_b"].append(" ".join(draw.permutation(some[:4]) if row % 2 else some[4:8]))
        columns["label"].append("same" if row % 2 else "other")
    return columns


def write(file: Path, rows: dict[str, list[Any]]) -> Path:
    lines = [json.dumps(dict(zip(rows, values, strict=True))) for values in zip(*rows.values(), strict=True)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def right(run: Path, rows: dict[str, list[Any]]) -> float:
    """The share of rows that a run answers right."""
    answers = (
        Predictor.from_model(load_model(run), "cpu").predict({"text": rows["text"], "text_b": rows["text_b"]}).answers
    )
    return float(np.mean([answer["prediction"] == label for answer, label in zip(answers, rows["label"], strict=True)]))


def test_an_encoder_that_knows_nothing_learns_to_compare_by_it(tmp_path: Path, loaded: LoadedModel) -> None:
    file, other = write(tmp_path / "rows.jsonl", overlapping(120, 0)), overlapping(200, 1)
    start(plan_finetuning("pair", file, loaded.path, SMALL).recipe, tmp_path / "with")
    start(
        plan_finetuning("pair", file, loaded.path, {**SMALL, "task": {"token_matching": False}}).recipe,
        tmp_path / "without",
    )
    assert right(tmp_path / "with", other) > 0.97
    assert right(tmp_path / "without", other) < 0.8


def test_a_head_that_is_fitted_at_once_has_it_too(tmp_path: Path, loaded: LoadedModel) -> None:
    pytest.importorskip("sklearn")
    file, other = write(tmp_path / "rows.jsonl", overlapping(200, 0)), overlapping(200, 1)
    result = auto("pair", file, loaded.path, SMALL, tmp_path / "run")
    assert result.stage == "linear"
    assert result.accuracy["linear"] > 0.97
    assert right(tmp_path / "run", other) > 0.97


def test_no_stock_class_has_it(tmp_path: Path, loaded: LoadedModel) -> None:
    rows = overlapping(40, 0)
    ranked = {
        "query": rows["text"],
        "text": rows["text_b"],
        "score": [float(label == "same") for label in rows["label"]],
    }
    for task, task_rows in (("pair", rows), ("rank", ranked)):
        start(
            plan_finetuning(task, write(tmp_path / f"{task}.jsonl", task_rows), loaded.path, SMALL).recipe,
            tmp_path / task,
        )
    with pytest.raises(
        SettingsError, match=r"'pair' also uses how the tokens .* task\.token_matching=false\. head=false"
    ):
        HFExporter().write(load_model(tmp_path / "pair"), tmp_path / "out")
    with pytest.raises(SettingsError, match=r"'rank' also uses how the tokens .* task\.token_matching=false"):
        SentenceTransformersExporter().write(load_model(tmp_path / "rank"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
