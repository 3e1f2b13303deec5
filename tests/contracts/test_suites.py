"""What every suite promises, over whatever parts lie in the folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encodery.base.errors import UserError
from encodery.base.parts import part_names
from encodery.base.settings import decode, encode
from encodery.evaluate.compare import measure
from encodery.evaluate.suites import Suite
from encodery.evaluate.systems.model import ModelSystem
from encodery.finetune.tasks import TaskMetadata
from encodery.finetune.tasks.classify import TextClassification
from encodery.tokens.tokenizer import Tokenizer

WORDS = ["cat", "dog", "bird", "fish", "tree", "stone", "river", "hill", "king", "queen"]


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def retrieval(folder: Path) -> Path:
    lines(folder / "corpus.jsonl", [{"_id": w, "title": w, "text": f"about the {w}"} for w in WORDS])
    lines(folder / "queries.jsonl", [{"_id": f"q{w}", "text": w} for w in WORDS])
    (folder / "qrels").mkdir()
    table = "query-id\tcorpus-id\tscore\n" + "".join(f"q{w}\t{w}\t1\n" for w in WORDS)
    (folder / "qrels" / "test.tsv").write_text(table)
    return folder


def pairs(folder: Path) -> Path:
    rows = [{"a": f"the {one}", "b": f"a {two}", "score": len(one) - len(two)} for one in WORDS for two in WORDS[:3]]
    return lines(folder / "pairs.jsonl", rows)


def same(folder: Path) -> Path:
    rows = [{"a": f"the {one}", "b": f"a {two}", "label": int(one == two)} for one in WORDS for two in WORDS[:3]]
    return lines(folder / "same.jsonl", rows)


def classes(folder: Path) -> Path:
    rows = [{"text": f"{one} {two}", "label": "long" if len(one) > 4 else "short"} for one in WORDS for two in WORDS]
    lines(folder / "set" / "train.jsonl", rows[::2])
    lines(folder / "set" / "test.jsonl", rows[1::2])
    return folder / "set"


def grammar(folder: Path) -> Path:
    rows = [{"good": f"the {w} runs", "bad": f"the the {w}", "phenomenon": w[0]} for w in WORDS]
    return lines(folder / "grammar.jsonl", rows)


def facts(folder: Path) -> Path:
    rows = [{"prompt": f"the {w} is [MASK] here", "answers": [WORDS[-n]], "relation": "r"} for n, w in enumerate(WORDS)]
    return lines(folder / "facts.jsonl", rows)


DATA: dict[str, Callable[[Path], Path]] = {
    "retrieval": retrieval,
    "sts": pairs,
    "pair": same,
    "classification": classes,
    "clustering": classes,
    "minimal_pairs": grammar,
    "cloze": facts,
    "task": classes,
}
TUNED = ("task",)
"""Suites that ask a head."""


@pytest.fixture(scope="module")
def models(
    tmp_path_factory: pytest.TempPathFactory,
    word_tokenizer: Callable[..., Tokenizer],
    small_model: Callable[..., Path],
    tuned_model: Callable[..., Path],
) -> tuple[ModelSystem, ModelSystem]:
    """A model without a head of a task, and one with."""
    tokenizer = word_tokenizer([*WORDS, "the", "a", "about", "is", "here", "runs"])
    folder = tmp_path_factory.mktemp("suites")
    plain = small_model(folder, tokenizer, depth=1, vocab_size=64, max_length=24)
    known = TaskMetadata(labels=("long", "short"), counts=(1, 1))
    return ModelSystem(path=str(plain)), ModelSystem(
        path=str(tuned_model(folder / "x", tokenizer, TextClassification(), known))
    )


@pytest.mark.parametrize("name", part_names(Suite))
def test_figures_with_their_items(name: str, models: tuple[ModelSystem, ModelSystem], tmp_path: Path) -> None:
    suite = decode(Suite, {"is": name})
    assert decode(Suite, encode(suite)) == suite
    items = suite.read(DATA[name](tmp_path))
    assert len(items) >= 8
    found = measure(suite, items, models[name in TUNED].open(), name)
    assert next(iter(found.metrics)) == found.main_metric == (suite.main_metric or found.main_metric)
    for figure in found.metrics.values():
        assert np.isfinite(figure.value)
        if figure.per_item is not None:
            assert figure.value == pytest.approx(figure.per_item.mean())
    main = found.metrics[found.main_metric]
    assert main.per_item is None or len(main.per_item) == len(items)
    low, high = main.interval() or (np.nan, np.nan)
    assert low <= high
    apart = main.difference_to(main)
    assert apart is not None
    assert (apart.value, apart.p) == (0.0, 1.0)
    assert found.counters.texts > 0
    assert found.counters.tokens
    assert (found.counters.padding, found.counters.dropped) == (0, 0)


@pytest.mark.parametrize("name", part_names(Suite))
def test_the_same_again(name: str, models: tuple[ModelSystem, ModelSystem], tmp_path: Path) -> None:
    suite, system = decode(Suite, {"is": name}), models[name in TUNED]
    items = suite.read(DATA[name](tmp_path))
    one, other = (measure(suite, items, system.open(), name) for _ in range(2))
    assert {k: f.value for k, f in one.metrics.items()} == {k: f.value for k, f in other.metrics.items()}


@pytest.mark.parametrize("name", part_names(Suite))
def test_data_that_is_none_is_refused(name: str, tmp_path: Path) -> None:
    suite = decode(Suite, {"is": name})
    with pytest.raises(UserError, match="no such file"):
        suite.read(tmp_path / "nowhere.jsonl")
    (tmp_path / "broken.jsonl").write_text('{"text": \n')
    with pytest.raises(UserError, match=r"no such file|line 1|qrels"):
        suite.read(tmp_path / "broken.jsonl")
