"""Learning from raw documents: sentences and their conjunctions, windows, the three tasks, what stays behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encodery.base.errors import EmptyInput, SettingsError
from encodery.base.settings import decode
from encodery.embed.data import EmbeddingExamples
from encodery.embed.discourse_job import DiscourseJob
from encodery.embed.sentences import BARE, BEFORE_COMMA, GROUPS, sentence_windows, split_sentences, strip_conjunction
from encodery.embed.training import Discourse, EmbedTraining
from encodery.encoders.dense import DenseEncoder
from encodery.model.load import LoadedModel, load_model
from encodery.train.distributed import DistributedContext
from encodery.train.execution.plain import Plain
from encodery.train.optim.adamw import AdamW
from encodery.train.step import forward_backward

CPU = torch.device("cpu")


def test_sentences_of_a_document() -> None:
    text = 'He came. "Why?" she\nasked (twice). 3 men said "No!" They ran at 3.5 m/s, e.g. fast\n\nA heading\n\n--- 1.'
    expected = [
        "He came.",
        '"Why?" she asked (twice).',
        '3 men said "No!"',
        "They ran at 3.5 m/s, e.g. fast",
        "A heading",
    ]
    assert split_sentences(text) == expected
    assert split_sentences("Émile … Il dort. Élan !") == ["Émile …", "Il dort.", "Élan !"]
    assert split_sentences("今日は雨です。明日は晴れます。") == ["今日は雨です。", "明日は晴れます。"]
    assert split_sentences("") == []


@pytest.mark.parametrize(
    ("sentence", "rest", "group"),
    [
        ("However, he left.", "He left.", "contrast"),
        ("However he tried, he failed.", "However he tried, he failed.", None),
        ("Therefore the mill stood still.", "The mill stood still.", "result"),
        ("In addition, they sang.", "They sang.", "addition"),
        ("Thenceforth all was well.", "Thenceforth all was well.", None),
        ("Of course, é.", "É.", "concession"),
        ("Then", "Then", None),
        ("", "", None),
    ],
)
def test_conjunctions_are_taken_away_where_they_are_some(sentence: str, rest: str, group: str | None) -> None:
    assert strip_conjunction(sentence) == (rest, -1 if group is None else GROUPS.index(group))


def test_each_conjunction_is_in_one_group() -> None:
    words = [word for some in (*BARE, *BEFORE_COMMA) for word in some]
    assert len(words) == len(set(words))
    assert len(BARE) == len(BEFORE_COMMA) == len(GROUPS)


def test_windows_lose_no_neighbours() -> None:
    documents = ["\n\n".join(f"one {number}" for number in range(count)) for count in (4, 6, 3, 7)]
    made = sentence_windows(EmbeddingExamples((documents,)), Discourse(window=4, context=1))
    rows = list(zip(*made.data.columns, strict=True))
    assert rows[:3] == [
        tuple(f"one {n}" for n in range(4)),
        tuple(f"one {n}" for n in range(4)),
        tuple(f"one {n}" for n in range(2, 6)),
    ]
    assert (len(rows), made.num_short, made.sentences) == (5, 1, 20)
    assert "1 documents too short" in made.note
    with pytest.raises(EmptyInput, match="the longest has 7"):
        sentence_windows(EmbeddingExamples((documents,)), Discourse(window=8))
    lines = EmbeddingExamples(([f"one {n}" for n in range(9)],))
    assert len(sentence_windows(lines, Discourse(window=5, rows="sentences")).data) == 2
    with pytest.raises(SettingsError, match=r"discourse\.context = 7"):
        Discourse(context=7)
    with pytest.raises(SettingsError, match="one of these ways"):
        decode(EmbedTraining, {"discourse": {}, "loss": {"is": "infonce"}})


def documents(count: int, seed: int) -> EmbeddingExamples:
    """Sentences of an a and a b that count upwards; every sentence of an even number begins with "Hence"."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        first = int(rng.integers(0, 30))
        rows = [f"{'However, ' if n % 2 else 'Hence '}a{n} b{n}" for n in range(first, first + 8)]
        found.append("\n\n".join(rows))
    return EmbeddingExamples((found,))


def job(loaded: LoadedModel, **train: Any) -> DiscourseJob:
    table = {"discourse": {"window": 6, "context": 2}, "batch": 16, "train": {"precision": "fp32", **train}}
    return DiscourseJob(decode(EmbedTraining, table), loaded, documents(80, 0), None, DistributedContext(), CPU)


def test_all_three_are_learned_and_the_classifiers_stay_behind(loaded: LoadedModel, tmp_path: Path) -> None:
    work = job(loaded, micro_batch_tokens=200)
    optimizer = AdamW(lr=3e-3).build(work.module)
    course: list[dict[str, float]] = []
    for step in range(160):
        optimizer.zero_grad()
        found = forward_backward(
            Plain().build(work, DistributedContext(), torch.device("cpu")),
            work.batches(step, 0.0, 0, None),
            DistributedContext(),
            "fp32",
            0,
            step,
        )
        optimizer.step()
        names = found[0]
        course.append({n: sum(float(t[n].total) for t in found) / sum(int(t[n].count) for t in found) for n in names})
    before, after = (
        {n: float(np.mean([row[n] for row in some])) for n in course[0]} for some in (course[:5], course[-5:])
    )
    assert after["ordered"] > max(before["ordered"] + 0.15, 0.75)
    assert after["followed"] > max(before["followed"] + 0.1, 0.5)
    assert after["joined"] > max(before["joined"], 0.9), "odd and even sentences are joined by other words"
    work.save(tmp_path / "model", {})
    again = load_model(tmp_path / "model")
    assert sum(p.numel() for p in again.model.parameters()) == sum(p.numel() for p in loaded.model.parameters())
    assert DenseEncoder.from_loaded(again).encode(["a1 a2"]).vectors.shape == (1, 32)


def test_counts_are_those_of_the_terms(loaded: LoadedModel) -> None:
    work = job(loaded)
    micro = work.batches(0, 0.0, 0, None).micro_batches[0].batch
    counts = {name: int(count) for name, count in work.counts(micro).items()}
    assert counts == {name: int(term.count) for name, term in work.terms(micro).items() if term.weight}
    assert counts["conjunction"] == 5 * len(micro.extra["texts"][0]), (
        "the first sentence of a window has none before it"
    )


def test_only_the_order_shown_counts(loaded: LoadedModel) -> None:
    """Neighbours shown in the right order and their mirror image shown swapped are the same to the classifier."""
    work = job(loaded)
    torch.nn.init.normal_(work.classifiers.order.weight, std=0.3)
    vectors = torch.nn.functional.normalize(torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0)), dim=-1)
    plain, swapped = torch.zeros(1, 5, dtype=torch.bool), torch.ones(1, 5, dtype=torch.bool)
    right = [int(work._order(v, s)["ordered"].total) for v, s in ((vectors, plain), (vectors.flip(0), swapped))]
    assert sum(right) == 5, "the same logits, the other answer"
