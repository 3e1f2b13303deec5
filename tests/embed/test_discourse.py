"""Discourse objectives on raw documents: sentences and conjunctions, windows, the three tasks, what is dropped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encodery.base.errors import EmptyInput
from encodery.embed.examples import EmbeddingExamples
from encodery.embed.sentences import BARE, BEFORE_COMMA, GROUPS, sentence_windows, split_sentences, strip_conjunction
from encodery.encoders.dense import DenseEncoder
from encodery.model.load import LoadedModel, load_model


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
def test_conjunctions_at_the_beginning_are_removed(sentence: str, rest: str, group: str | None) -> None:
    assert strip_conjunction(sentence) == (rest, -1 if group is None else GROUPS.index(group))


def test_each_conjunction_is_in_one_group() -> None:
    words = [word for some in (*BARE, *BEFORE_COMMA) for word in some]
    assert len(words) == len(set(words))
    assert len(BARE) == len(BEFORE_COMMA) == len(GROUPS)


def test_windows_keep_all_pairs_of_neighbours() -> None:
    documents = ["\n\n".join(f"one {number}" for number in range(count)) for count in (4, 6, 3, 7)]
    made = sentence_windows(EmbeddingExamples((documents,)), 4)
    windows = list(zip(*made.data.columns, strict=True))
    assert windows[:3] == [
        tuple(f"one {n}" for n in range(4)),
        tuple(f"one {n}" for n in range(4)),
        tuple(f"one {n}" for n in range(2, 6)),
    ]
    assert (len(windows), made.num_short, made.sentences) == (5, 1, 20)
    assert "1 documents with too few sentences" in made.note
    with pytest.raises(EmptyInput, match="the longest has 7"):
        sentence_windows(EmbeddingExamples((documents,)), 8)
    lines = EmbeddingExamples(([f"one {n}" for n in range(9)],))
    assert len(sentence_windows(lines, 5, "sentences").data) == 2


def documents(count: int, seed: int) -> EmbeddingExamples:
    """Sentences with an a and a b that count upwards; sentences with an even number begin with "Hence"."""
    rng = np.random.default_rng(seed)
    texts = []
    for _ in range(count):
        first = int(rng.integers(0, 30))
        sentences = [f"{'However, ' if n % 2 else 'Hence '}a{n} b{n}" for n in range(first, first + 8)]
        texts.append("\n\n".join(sentences))
    return EmbeddingExamples((texts,))


def discourse_job(make_job: Any, **train: Any) -> Any:
    return make_job(documents(80, 0), objective={"is": "discourse", "window": 6, "context": 2}, train=train)


def test_all_three_tasks_are_learned_and_the_classifiers_are_dropped(
    make_job: Any, train_steps: Any, loaded: LoadedModel, tmp_path: Path
) -> None:
    job = discourse_job(make_job, micro_batch_tokens=200)
    curve = train_steps(job, 160)
    before, after = (
        {name: float(np.mean([step[name] for step in steps])) for name in curve[0]} for steps in (curve[:5], curve[-5:])
    )
    assert after["order_accuracy"] > max(before["order_accuracy"] + 0.15, 0.75)
    assert after["next_accuracy"] > max(before["next_accuracy"] + 0.1, 0.5)
    assert after["conjunction_accuracy"] > max(before["conjunction_accuracy"], 0.9)
    job.save(tmp_path / "model", {})
    again = load_model(tmp_path / "model")
    assert sum(p.numel() for p in again.model.parameters()) == sum(p.numel() for p in loaded.model.parameters())
    assert DenseEncoder.from_loaded(again).encode(["a1 a2"]).vectors.shape == (1, 32)


def test_counts_are_those_of_the_terms(make_job: Any) -> None:
    job = discourse_job(make_job)
    batch = job.batches(0, 0.0, 0, None).micro_batches[0].batch
    counts = {name: int(count) for name, count in job.counts(batch).items()}
    assert counts == {name: int(term.count) for name, term in job.terms(batch).items() if term.weight}
    assert counts["conjunction"] == 5 * len(batch.extra["texts"][0]), "the first sentence has none before it"


def test_only_the_given_order_counts(make_job: Any) -> None:
    """Neighbours in the right order, and their mirror image marked as swapped, are equal to the classifier."""
    objective = discourse_job(make_job).objective
    torch.nn.init.normal_(objective.classifiers.order.weight, std=0.3)
    vectors = torch.nn.functional.normalize(torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0)), dim=-1)
    plain, swapped = torch.zeros(1, 5, dtype=torch.bool), torch.ones(1, 5, dtype=torch.bool)
    correct = [
        int(objective._order(v, s)["order_accuracy"].total) for v, s in ((vectors, plain), (vectors.flip(0), swapped))
    ]
    assert sum(correct) == 5, "the same logits, the other answer"
