"""Spans of requested types: target marks, windows and prompts, exact characters, and a model of a few steps that also
predicts types without training rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encodery.base.errors import InputError, SettingsError
from encodery.finetune.examples import Examples
from encodery.finetune.heads.span_type_scorer import ABSENT_LOGIT
from encodery.finetune.predict import Predictor
from encodery.finetune.preprocess import Preprocessor
from encodery.finetune.task_types import TaskMetadata
from encodery.finetune.tasks.label_spans import ZeroShotSpans
from encodery.model.load import LoadedModel, load_model
from encodery.model.network import build_model
from encodery.objectives import normalised_loss, sum_counts
from encodery.tokens.tokenizer import Tokenizer

TASK = ZeroShotSpans(max_span_words=3, overlap=4, type_dropout=0.0)


def mixed(count: int, seed: int) -> dict[str, list[Any]]:
    """Texts in which colours are of the type 'sun', animals of the type 'sky'."""
    draw = np.random.default_rng(seed)
    kinds = {"red": "sun", "green": "sun", "blue": "sun", "cat": "sky", "dog": "sky"}
    tokens = [[str(w) for w in draw.choice([*kinds, "one", "two", "six"], 5)] for _ in range(count)]
    tags = [[f"B-{kinds[word]}" if word in kinds else "O" for word in words] for words in tokens]
    return {"tokens": tokens, "tags": tags}


def predictor(task: ZeroShotSpans, loaded: LoadedModel, known: TaskMetadata, policy: str = "chunk") -> Predictor:
    reader = Preprocessor(loaded.tokenizer, loaded.model.settings.max_length, True, policy)  # type: ignore[arg-type]
    torch.manual_seed(0)
    module = task.build(loaded.model.settings.shape, known)
    return Predictor(
        build_model(loaded.model.settings).eval(), module.eval(), task, reader, known, {}, torch.device("cpu")
    )


def perfect_logits(examples: Examples, value: float = 5.0) -> list[np.ndarray]:
    """The logits of a perfect module for examples with targets."""
    logits_of_texts = []
    for number in range(len(examples)):
        gold, types = examples.token_mark("target", number), int(examples.targets["types"][number])
        logits = np.full((*gold.shape, types), ABSENT_LOGIT, np.float32)
        at, width = np.nonzero(gold >= 0)
        logits[at, width, gold[at, width]] = value
        logits_of_texts.append(logits.reshape(len(gold), -1))
    return logits_of_texts


def trained(
    task: ZeroShotSpans,
    loaded: LoadedModel,
    rows: dict[str, list[Any]],
    steps: int,
    size: int,
    lr: float = 3e-3,
    orthogonal: bool = False,
) -> Predictor:
    """A model of a few steps on rows. `orthogonal`: token embeddings are orthogonal and not trained, so that the model
    cannot store its training pairs in them."""
    known = task.fit_labels(rows)
    made = predictor(task, loaded, known)
    if orthogonal:
        table = made.model.encoder.token_embeddings.requires_grad_(False)
        torch.nn.init.orthogonal_(table)
        table.mul_(table.shape[1] ** 0.5)
    examples = task.prepare(rows, made.preprocessor, known, True)
    optim = torch.optim.AdamW([*made.model.parameters(), *made.module.parameters()], lr=lr)
    draw = np.random.default_rng(0)
    made.model.train()
    for _ in range(steps):
        batch = examples.batch(draw.integers(len(examples), size=size))
        terms = made.module.loss(made.module(made.model(batch), batch), batch)
        optim.zero_grad()
        normalised_loss(terms, sum_counts([made.module.counts(batch)])).backward()  # type: ignore[no-untyped-call]
        optim.step()
    made.model.eval()
    return made


def test_a_few_steps_learn_spans_and_only_requested_types_are_predicted(loaded: LoadedModel) -> None:
    rows, test = mixed(120, 0), mixed(40, 1)
    made = trained(TASK, loaded, rows, 150, 16)
    known = made.metadata
    answers = made.predict({"tokens": test["tokens"]}).answers
    assert TASK.metrics(answers, test, known)["f1"] > 0.8
    texts = [" ".join(words) for words in test["tokens"]]
    requested = made.predict({"text": texts, "types": [["sky"]] * len(texts)}).answers
    assert {span["label"] for answer in requested for span in answer["spans"]} == {"sky"}


COLOURS = ("red", "green", "blue", "grey", "black", "white", "pink", "brown")
ANIMALS = ("cat", "dog", "fox", "hen", "owl", "cow", "pig", "bat")
UNSEEN = [" ".join(pair) for pair in zip(COLOURS[:5], ANIMALS[:5], strict=True)]
SEEN = [f"{colour} {animal}" for colour in COLOURS for animal in ANIMALS if f"{colour} {animal}" not in UNSEEN]


def coloured_animals(count: int, seed: int, in_texts: Sequence[str], types: Sequence[str]) -> dict[str, list[Any]]:
    """Texts with two coloured animals of `in_texts`, one of them of `types`. Each row asks for that one and for an
    absent one of `types`, which has the colour or the animal of one in the text if there is such a type."""
    draw = np.random.default_rng(seed)
    rows: dict[str, list[Any]] = {"text": [], "types": [], "spans": []}
    for _ in range(count):
        present, other = str(draw.choice(types)), str(draw.choice(in_texts))
        names = [str(name) for name in draw.permutation([present, *({other} - {present})])]
        candidates, words = [name for name in types if name not in names], set(" ".join(names).split())
        absent = str(draw.choice([name for name in candidates if words & set(name.split())] or candidates))
        text, spans = "", []
        for name in names:
            text += f"{draw.choice(['one', 'two', 'six'])} {name} "
            if name == present:
                spans.append({"start": len(text) - len(name) - 1, "end": len(text) - 1, "label": name})
        rows["text"].append(text)
        rows["types"].append([str(name) for name in draw.permutation([present, absent])])
        rows["spans"].append(spans)
    return rows


def test_types_that_are_not_in_training_are_predicted(
    word_tokenizer: Callable[..., Tokenizer], small_model: Callable[..., Path], tmp_path: Path
) -> None:
    """Every word of the types was read in training, no such pair of words was, in the texts or in the prompts."""
    tokenizer = word_tokenizer([*COLOURS, *ANIMALS, "one", "two", "six"])
    task = ZeroShotSpans(max_span_words=2, overlap=4, type_dropout=0.0, positive_weight=10.0, dropout=0.0)
    rows = coloured_animals(2000, 0, SEEN, SEEN)
    assert not any(name in text for name in UNSEEN for text in rows["text"])
    loaded = load_model(small_model(tmp_path, tokenizer, depth=1, max_length=24, type_vocab_size=2))
    made = trained(task, loaded, rows, steps=500, size=64, lr=5e-3, orthogonal=True)
    assert not set(made.metadata.types) & set(UNSEEN)
    test = coloured_animals(100, 1, SEEN + UNSEEN, UNSEEN)
    answers = made.predict({"text": test["text"], "types": test["types"]}).answers
    assert task.metrics(answers, test, made.metadata)["f1"] > 0.8
    # The same texts with types that they do not have: the prediction depends on the name.
    absent = [[name for name in UNSEEN if name not in text][:2] for text in test["text"]]
    answers = made.predict({"text": test["text"], "types": absent}).answers
    assert sum(len(answer["spans"]) for answer in answers) < 20


@pytest.mark.parametrize("letters", ["red cat", "é\u0301red 👩\u200d👧 cat", "שלום red, cat"])
def test_targets_are_decoded_to_the_exact_characters(loaded: LoadedModel, letters: str) -> None:
    text = f"one {letters} two"
    start, end = text.index("red"), text.index("cat") + 3
    rows = {"text": [text], "spans": [[{"start": start, "end": end, "label": "sun"}]]}
    task = ZeroShotSpans(max_span_words=5)
    known = task.fit_labels(rows)
    examples = task.prepare(rows, Preprocessor(loaded.tokenizer, 24, True, "chunk"), known, True)
    [answer] = task.decode(perfect_logits(examples), examples, rows, known, {})
    [span] = answer["spans"]
    assert text[span["start"] : span["end"]] == span["text"]
    assert span["text"].endswith("cat")
    assert "red" in span["text"]
    assert span["probability"] == pytest.approx(1 / (1 + np.exp(-5)))


def test_windows_and_prompts_lose_no_span(loaded: LoadedModel) -> None:
    words = ("one red cat two blue six dog sky " * 8).split()
    text = " ".join(words)
    starts = np.cumsum([0, *(len(word) + 1 for word in words[:-1])])
    spans = [
        {"start": int(at), "end": int(at) + len(word), "label": word}
        for at, word in zip(starts, words, strict=True)
        if word in ("red", "blue", "dog")
    ]
    spans.append(
        {"start": int(starts[9]), "end": int(starts[10]) + 3, "label": "one"}
    )  # "red cat", overlapped by "red"
    rows = {"text": [text], "types": [["red", "blue", "one", "dog"]], "spans": [spans]}
    task = ZeroShotSpans(max_span_words=2, overlap=4, types_per_prompt=2, type_dropout=0.0)
    known = task.fit_labels(rows)
    examples = task.prepare(rows, Preprocessor(loaded.tokenizer, 24, True, "chunk"), known, True)
    assert len(examples) > 4
    assert set(examples.targets["types"].tolist()) == {2}
    assert int((examples.token_marks["target"] >= 0).sum()) == len(spans)
    assert examples.dropped_tokens.tolist() == [0]
    # Every word begins spans in one window of each prompt.
    for number in range(2):
        prompts = [e for e in range(len(examples)) if (e >= len(examples) // 2) == number]
        seen = sorted(int(u) for e in prompts for u in examples.token_mark("word", e) if u >= 0)
        assert seen == list(range(len(words)))
    [answer] = task.decode(perfect_logits(examples), examples, rows, known, {})
    predicted = {(s["start"], s["end"], s["label"]) for s in answer["spans"]}
    assert predicted <= {(s["start"], s["end"], s["label"]) for s in spans}
    assert len(predicted) == len(spans) - 1  # Of two that overlap one stays.


def test_in_a_batch_shorter_prompts_have_no_logits_of_the_types_they_lack(loaded: LoadedModel) -> None:
    rows = {"text": ["one red", "two cat six"], "types": [["sun"], ["sky", "dog", "sun"]]}
    made = predictor(TASK, loaded, TaskMetadata(types=("sun",)))
    examples = TASK.prepare(rows, made.preprocessor, TaskMetadata(types=("sun",)), False)
    together, apart = made.outputs(examples, 10**6), made.outputs(examples, 1)
    first = together[0].reshape(len(together[0]), 3, 3)
    assert (first[:, :, 1:] == ABSENT_LOGIT).all()
    np.testing.assert_allclose(first[:, :, :1], apart[0].reshape(len(apart[0]), 3, 1), atol=1e-5)
    np.testing.assert_allclose(together[1], apart[1], atol=1e-5)


def test_type_dropout_never_drops_types_that_have_a_span(loaded: LoadedModel) -> None:
    data = mixed(40, 0)
    task = ZeroShotSpans(type_dropout=0.9)
    known = task.fit_labels(data)
    examples = task.prepare(data, Preprocessor(loaded.tokenizer, 24, True, "chunk"), known, True)
    spans = sum(sum(tag.startswith("B") for tag in tags) for tags in data["tags"])
    assert int((examples.token_marks["target"] >= 0).sum()) == spans
    assert set(examples.targets["types"].tolist()) == {1, 2}
    unlabelled = task.prepare(data, Preprocessor(loaded.tokenizer, 24, True, "chunk"), known, False)
    assert set(unlabelled.targets["types"].tolist()) == {2}


def test_invalid_types_are_refused(loaded: LoadedModel) -> None:
    reader, known = Preprocessor(loaded.tokenizer, 24, True, "chunk"), TaskMetadata(types=("sun",))
    with pytest.raises(InputError, match=r"Row 1: its types are \['sun', 'sun'\]"):
        TASK.prepare({"text": ["one", "two"], "types": [["sun"], ["sun", "sun"]]}, reader, known, False)
    with pytest.raises(InputError, match=r"Type 'one one .* has 30 tokens"):
        TASK.prepare({"text": ["one"], "types": [["one " * 29 + "one"]]}, reader, known, False)
    with pytest.raises(InputError, match=r"no row has a span"):
        TASK.fit_labels({"tokens": [["one"]], "tags": [["O"]]})
    with pytest.raises(InputError, match=r"Row 0: there is no text at characters 3 to 9"):
        TASK.fit_labels({"text": ["one"], "spans": [[{"start": 3, "end": 9, "label": "sun"}]]})
    with pytest.raises(SettingsError, match=r"max_span_words = 0"):
        ZeroShotSpans(max_span_words=0)


def test_the_threshold_is_tuned_where_it_helps() -> None:
    from encodery.finetune.examples import ExampleBuilder
    from encodery.finetune.preprocess import InputSequence

    rows = {"tokens": [["red"], ["cat"]], "tags": [["B-sun"], ["O"]]}
    collector = ExampleBuilder(False)
    for row in range(2):
        marks = {"type": np.array([-1, 0, -1, -1, -1], np.int16), "word": np.array([-1, -1, -1, 0, -1], np.int32)}
        collector.add(row, [InputSequence(np.arange(5), 5, 3, 0, 1)], {"types": 1}, marks)
    outputs = [np.full((5, 3), ABSENT_LOGIT, np.float32) for _ in range(2)]
    outputs[0][3, 0], outputs[1][3, 0] = -0.5, -1.5  # 0.38 for the labelled span, 0.18 for the other.
    examples, known = collector.build([0, 0]), TaskMetadata(types=("sun",))
    tuned = TASK.calibrate(outputs, examples, rows, known)
    assert tuned == {"threshold": 0.3}
    assert TASK.metrics(TASK.decode(outputs, examples, rows, known, tuned), rows, known)["f1"] == 1
    assert TASK.metrics(TASK.decode(outputs, examples, rows, known, {}), rows, known)["f1"] == 0
