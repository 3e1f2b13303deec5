"""Run the peer of `bench/tasks.py`, the stock trainer with its defaults; the last line has the metrics as JSON.

    python bench/tasks_peer.py --data FOLDER --set NAME --model DIR --seed N --epochs E

The defaults of the stock recipe: AdamW at 5e-5 with linear decay, batches of 8, the dropout of the model, padding to
the longest of a batch; the weights after the last epoch are evaluated. Samples per second are those of training.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from tasks_data import SETS, Labelled, read_split
from tasks_judge import cosines, score

LENGTH = 256


class EncodedExamples(torch.utils.data.Dataset[dict[str, Any]]):
    """Encoded rows in the form that the stock collators need."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self.rows[number]


def encode_rows(
    rows: list[dict[str, Any]], labelled: Labelled, tokenizer: Any, labels: list[str]
) -> tuple[EncodedExamples, list[list[int | None]]]:
    """Return the encoded rows, and for tagging the index of the word that each token begins (None for other tokens)."""
    results, word_ids = [], []
    for row in rows:
        if labelled.task == "tag":
            one = tokenizer(row[labelled.texts[0]], is_split_into_words=True, truncation=True, max_length=LENGTH)
            first: list[int | None] = []
            previous = None
            for word in one.word_ids():
                first.append(word if word is not None and word != previous else None)
                previous = word
            one["labels"] = [-100 if w is None else labels.index(row[labelled.label][w]) for w in first]
            word_ids.append(first)
        else:
            one = tokenizer(*(row[name] for name in labelled.texts), truncation=True, max_length=LENGTH)
            value = row[labelled.label]
            one["labels"] = float(value) if labelled.task == "regress" else labels.index(str(value))
        results.append(dict(one))
    return EncodedExamples(results), word_ids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", choices=SETS, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=float, default=3)
    options = parser.parse_args()
    labelled = SETS[options.set]
    transformers.set_seed(options.seed)
    train, test = (read_split(options.data, split) for split in ("train", "test"))
    if labelled.task == "embed":
        print(json.dumps(embedding_model(labelled, train, test, options)))
        return
    labels: list[str] = []
    if labelled.task == "tag":
        labels = sorted({tag for row in train + test for tag in row[labelled.label]})
    elif labelled.task != "regress":
        labels = sorted({str(row[labelled.label]) for row in train + test})
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    kind = transformers.AutoModelForTokenClassification
    collate: Any = transformers.DataCollatorForTokenClassification(tokenizer)
    if labelled.task != "tag":
        kind = transformers.AutoModelForSequenceClassification
        collate = transformers.DataCollatorWithPadding(tokenizer)
    model = kind.from_pretrained(options.model, num_labels=max(len(labels), 1), dtype=torch.float32)
    (rows, _), (test_set, word_ids) = (encode_rows(split, labelled, tokenizer, labels) for split in (train, test))
    with tempfile.TemporaryDirectory() as scratch:
        settings = transformers.TrainingArguments(
            scratch, num_train_epochs=options.epochs, seed=options.seed, report_to=[], save_strategy="no",
            disable_tqdm=True, logging_strategy="no", use_cpu=True, per_device_eval_batch_size=32,
        )  # fmt: skip
        trainer = transformers.Trainer(model, settings, train_dataset=rows, data_collator=collate)
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
        logits = trainer.predict(test_set).predictions
    predicted = _predictions(logits, labelled, labels, word_ids)
    print(json.dumps({
        "quality": score(labelled, test, predicted),
        "samples_per_s": len(train) * options.epochs / seconds,
        "seconds": seconds,
    }))  # fmt: skip


def embedding_model(
    labelled: Labelled, train: list[dict[str, Any]], test: list[dict[str, Any]], options: argparse.Namespace
) -> dict[str, float]:
    """Train with the trainer of sentence-transformers, its defaults and its loss for scored pairs (CoSENT)."""
    import datasets
    import sentence_transformers as st
    from sentence_transformers.sentence_transformer.losses import CoSENTLoss

    names = (*labelled.texts, labelled.label)
    model = st.SentenceTransformer(str(options.model), device="cpu")
    with tempfile.TemporaryDirectory() as scratch:
        settings = st.SentenceTransformerTrainingArguments(
            scratch, num_train_epochs=options.epochs, seed=options.seed, report_to=[], save_strategy="no",
            disable_tqdm=True, logging_strategy="no", use_cpu=True,
        )  # fmt: skip
        rows = datasets.Dataset.from_list([{**row, labelled.label: float(row[labelled.label])} for row in train])
        trainer = st.SentenceTransformerTrainer(
            model, settings, train_dataset=rows.select_columns(list(names)), loss=CoSENTLoss(model)
        )
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
    one, other = (model.encode([row[name] for row in test], show_progress_bar=False) for name in labelled.texts)
    return {
        "quality": score(labelled, test, cosines(one, other)),
        "samples_per_s": len(train) * options.epochs / seconds,
        "seconds": seconds,
    }


def _predictions(
    logits: np.ndarray, labelled: Labelled, labels: list[str], word_ids: list[list[int | None]]
) -> list[Any]:
    if labelled.task == "regress":
        return [float(row[0]) for row in logits]
    best = logits.argmax(-1)
    if labelled.task != "tag":
        return [labels[int(index)] for index in best]
    return [
        [labels[int(best[row, position])] for position, word in enumerate(first) if word is not None]
        for row, first in enumerate(word_ids)
    ]


if __name__ == "__main__":
    main()
