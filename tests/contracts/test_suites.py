"""Contract of suites: every check of `encodery.checks.suites` on every part in the folder, with its data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from encodery import checks
from encodery.base.parts import find_part, part_names
from encodery.checks import suites
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


@pytest.mark.parametrize("check", checks.functions(suites), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", part_names(Suite))
def test_contract(
    name: str,
    check: checks.Check,
    models: tuple[ModelSystem, ModelSystem],
    tmp_path: Path,
    run_check: Callable[..., None],
) -> None:
    run_check(check, find_part(Suite, name)(), DATA[name](tmp_path), models[name in TUNED])
