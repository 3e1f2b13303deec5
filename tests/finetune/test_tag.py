"""Tags of texts of any length: exact characters in any script, windows that change nothing, both forms of rows."""

from __future__ import annotations

import numpy as np
import pytest
import tokenizers
import torch

from encodery.base.errors import InputError
from encodery.finetune.predict import Predictor
from encodery.finetune.preprocess import Preprocessor
from encodery.finetune.task_types import TaskMetadata
from encodery.finetune.tasks.tag import SequenceTagging
from encodery.model.network import Model, build_model
from encodery.model.positions.none import NoPositions
from encodery.model.settings import ModelSettings
from encodery.tokens.tokenizer import Tokenizer

KNOWN: TaskMetadata = TaskMetadata(labels=("O", "B-x", "I-x"), counts=(4, 2, 1))


@pytest.fixture(scope="module")
def byte_tokenizer() -> Tokenizer:
    """A piece for each byte, as of a byte-level BPE without merges."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    pieces = {piece: number for number, piece in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *alphabet])}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(pieces, []))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    made = Tokenizer(inner)
    made.set_template()
    return made


def model_of(tokenizer: Tokenizer, depth: int, longest: int) -> Model:
    """Without positions; without layers it knows no context."""
    settings = ModelSettings(
        width=32, depth=depth, heads=2, vocab_size=tokenizer.vocab_size, max_length=longest, positions=NoPositions()
    )
    return build_model(settings, seed=0).eval()


def predictor(tokenizer: Tokenizer, longest: int, overlap: int = 8, depth: int = 0) -> Predictor:
    model = model_of(tokenizer, depth, 4096)
    task = SequenceTagging(overlap=overlap)
    torch.manual_seed(0)
    module = task.build(model.settings.shape, KNOWN).eval()
    with torch.no_grad():
        module.out.weight.mul_(100)  # type: ignore[union-attr, operator]
    reader = Preprocessor(tokenizer, longest, False, "chunk")
    return Predictor(model, module, task, reader, KNOWN, {}, torch.device("cpu"))


TEXT = "Zürich 👩\u200d👧 cafe\u0301, हिन्दी — 東京 مرحبا! " * 6


def test_windows_change_nothing_where_context_does_not_count(byte_tokenizer: Tokenizer) -> None:
    whole = predictor(byte_tokenizer, 4096).predict([TEXT]).answers[0]
    parted = predictor(byte_tokenizer, 40).predict([TEXT]).answers[0]
    assert whole["prediction"] == [
        {**span, "probability": pytest.approx(span["probability"], abs=1e-6)} for span in parted["prediction"]
    ]
    assert whole["spans"]
    for span in whole["spans"]:
        assert TEXT[span["start"] : span["end"]] == span["text"] != ""


def test_words_and_texts_are_tagged_alike(byte_tokenizer: Tokenizer) -> None:
    fitted = predictor(byte_tokenizer, 64, depth=2)
    words = ["Zürich", ",", "हिन्दी", "x"]
    tags = fitted.predict({"tokens": [words]}).answers[0]
    assert len(tags["prediction"]) == 4
    text = fitted.predict({"text": ["Zürich , हिन्दी x"]}).answers[0]
    assert text["spans"] == tags["spans"]


def test_every_word_of_a_long_text_is_tagged_once(byte_tokenizer: Tokenizer) -> None:
    task, reader = SequenceTagging(overlap=8), Preprocessor(byte_tokenizer, 24, False, "chunk")
    words = TEXT.split()
    rows = {"tokens": [words, []], "tags": [["O"] * len(words), []]}
    examples = task.prepare(rows, reader, KNOWN, True)
    unit = examples.token_marks["word"]
    assert sorted(unit[unit >= 0].tolist()) == list(range(len(words)))
    assert ((examples.token_marks["label"] >= 0) == (unit >= 0)).all()
    assert examples.lengths.max() <= 24
    assert examples.dropped_tokens.tolist() == [0, 0]


def test_spans_become_the_tags_of_the_words_they_touch(byte_tokenizer: Tokenizer) -> None:
    rows = {"text": ["in New York."], "spans": [[{"start": 3, "end": 11, "label": "x"}]]}
    known = SequenceTagging().fit_labels(rows)
    assert known == TaskMetadata(labels=("B-x", "I-x", "O"), counts=(1, 1, 2))
    assert SequenceTagging(scheme="io").fit_labels(rows).labels == ("O", "x")
    with pytest.raises(InputError, match="Row 0: there is no text at characters 3 to 99"):
        SequenceTagging().fit_labels({"text": ["in New York"], "spans": [[{"start": 3, "end": 99, "label": "x"}]]})


def test_inside_tags_come_back_as_spans(byte_tokenizer: Tokenizer) -> None:
    task = SequenceTagging(scheme="io")
    known = TaskMetadata(labels=("O", "x"), counts=(1, 1))
    rows = {"tokens": [["a", "b", "c"]], "tags": [["O", "B-x", "I-x"]]}
    examples = task.prepare(rows, Preprocessor(byte_tokenizer, 32, False, "chunk"), known, True)
    label, unit = examples.token_marks["label"], examples.token_marks["word"]
    assert label[unit >= 0].tolist() == [0, 1, 1]
    logits = np.where(label[:, None] == np.arange(2), 9.0, 0.0)
    [answer] = task.decode([logits], examples, rows, known, {})
    assert answer["prediction"] == ["O", "B-x", "I-x"]
    assert task.metrics([answer], rows, known)["f1"] == 1.0


def test_wrong_rows_are_named() -> None:
    with pytest.raises(InputError, match="Row 1 has 1 words and 2 tags"):
        SequenceTagging().fit_labels({"tokens": [["a"], ["b"]], "tags": [["O"], ["O", "B-x"]]})
    with pytest.raises(InputError, match="nothing to distinguish: the tags are O"):
        SequenceTagging().fit_labels({"tokens": [["a"]], "tags": [["O"]]})


def test_plain_tags_are_returned_unchanged() -> None:
    rows = {"tokens": [["a", "b"]], "tags": [["NOUN", "VERB"]]}
    assert SequenceTagging().fit_labels(rows).tag_kind == "plain"
