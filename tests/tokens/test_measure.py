"""The quality report counts what can be counted by hand, and the verb shows it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from encodery.base.artifact import Artifact
from encodery.base.errors import EmptyInput
from encodery.cli.__main__ import run
from encodery.corpus.document import Document
from encodery.tokens.kind.byte import Byte
from encodery.tokens.measure import compare, evaluation_documents, measure
from encodery.tokens.store import TokenStore
from encodery.tokens.tokenizer import Tokenizer


def test_metrics_of_bytes_are_known() -> None:
    tokenizer = Tokenizer(Byte().train([], 0))
    text = [Document("a", "ab cdé", {"source": "x"}), Document("b", "fg", {"source": "y"})]
    metrics = measure(tokenizer, text, "byte")
    assert metrics.tokens == metrics.bytes == 9
    assert metrics.tokens_per_word == 3.0
    assert metrics.bytes_per_token == 1.0
    assert metrics.unknown_rate == 0.0
    assert metrics.single_token_words == 0.0
    assert metrics.vocabulary_used == round(9 / 261, 4)
    assert {source: f.bytes for source, f in metrics.sources.items()} == {"x": 7, "y": 2}


def test_metrics_of_words(tokenizer: Tokenizer) -> None:
    text = [Document("a", "the statement 北 is the statement", {})]
    metrics = measure(tokenizer, text, "wordpiece")
    ids = tokenizer.encode(text[0].text).tolist()
    assert metrics.tokens == len(ids)
    assert metrics.unknown_rate == round(1 / len(ids), 6)
    assert metrics.single_token_words == round(5 / 6, 4)
    assert metrics.sources == {}
    assert metrics.most_frequent_pieces[0] == ("the", round(2 / len(ids), 4))
    assert metrics.longest_pieces[0] == "statement"


def test_heldout_text_is_limited(corpus: Path) -> None:
    text = evaluation_documents(corpus)
    assert len(text) == 8
    assert len(evaluation_documents(corpus, max_bytes=len(text[0].text.encode()) + 1)) == 1


def test_training_text_is_used_if_nothing_is_held_out(make_corpus: Callable[..., Artifact], tmp_path: Path) -> None:
    make_corpus(tmp_path / "c", ["one", "two"], [], shards=1)
    assert [document.text for document in evaluation_documents(tmp_path / "c")] == ["one", "two"]
    make_corpus(tmp_path / "e", ["  "], [], shards=1)
    with pytest.raises(EmptyInput, match="measure"):
        evaluation_documents(tmp_path / "e")


def test_several_tokenizers_are_measured_on_the_same_text(corpus: Path, tokenizer_folder: Path) -> None:
    first, second = compare([tokenizer_folder, tokenizer_folder], corpus)
    assert first == second
    assert first.documents == 8
    assert 1 < first.tokens_per_word < 4
    assert 0.3 < first.single_token_words < 1


def test_the_commands_from_training_to_verification(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wp, store = str(tmp_path / "wp"), str(tmp_path / "store")
    assert run(["tokens", "train", str(corpus), "--out", wp, "kind=bpe", "vocab_size=600"]) == 0
    assert run(["tokens", "measure", wp, "--corpus", str(corpus), "--json", str(tmp_path / "m.json")]) == 0
    metrics = json.loads((tmp_path / "m.json").read_text())[0]
    assert metrics["vocab_size"] == 640
    assert "tokens per word" in capsys.readouterr().out
    assert run(["tokens", "encode", str(corpus), "--tokenizer", wp, "--out", store]) == 0
    assert run(["tokens", "verify", store]) == 0
    assert f"{TokenStore.open(store).tokens:,}" in capsys.readouterr().out
    assert run(["tokens", "split", "a [MASK]", "--tokenizer", wp]) == 0
    assert "[MASK] 4" in " ".join(capsys.readouterr().out.split())
    assert run(["tokens", "train", str(corpus), "--out", str(tmp_path / "x"), "kind=bep"]) == 2
    assert "Did you mean 'bpe'" in " ".join(capsys.readouterr().err.split())
