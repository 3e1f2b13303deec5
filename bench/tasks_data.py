"""Read the labelled data sets of `bench/tasks.py`, one JSON-lines file each, and write splits of limited size.

A row has `split` (train, dev or test). A missing split is made from train by a hash of the text, so that equal texts
are in one split. The output is a folder of train.jsonl, dev.jsonl and test.jsonl that any trainer can read.
"""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPLITS = ("train", "dev", "test")
SPLIT_FRACTIONS = {"dev": 0.15, "test": 0.15}


@dataclass(frozen=True)
class Labelled:
    """A labelled data set.

    `file`: its path in the data folder. `task`: the task of `encodery finetune`, or `embed` for an embedding model that
    is trained on scored pairs and evaluated by its cosines. `metric`: the metric of the evaluation. `texts`: the
    columns of the texts. `label`: the column of the label.
    """

    file: str
    task: str
    metric: str
    texts: tuple[str, ...]
    label: str


SETS = {
    "sms_spam": Labelled("cls/sms_spam.jsonl.xz", "classify", "f1", ("text",), "label"),
    "movies": Labelled("cls/sentiment_movie.jsonl.xz", "classify", "accuracy", ("text",), "label"),
    "banking77": Labelled("cls/banking77.jsonl.xz", "classify", "accuracy", ("text",), "label"),
    "snips": Labelled("cls/snips_intents.jsonl.xz", "classify", "accuracy", ("text",), "label"),
    "newsgroups": Labelled("cls/20newsgroups.jsonl.xz", "classify", "accuracy", ("text",), "label"),
    "vitaminc": Labelled("nli/vitaminc.jsonl.xz", "pair", "accuracy", ("premise", "hypothesis"), "label"),
    "stsb": Labelled("sts/stsb_en.jsonl.xz", "regress", "spearman", ("a", "b"), "score"),
    "stsb_embed": Labelled("sts/stsb_en.jsonl.xz", "embed", "spearman", ("a", "b"), "score"),
    "wnut17": Labelled("tok/wnut17_ner.jsonl.xz", "tag", "span_f1", ("tokens",), "bio"),
}


def write_splits(source: Path, labelled: Labelled, out: Path, sizes: dict[str, int]) -> dict[str, int]:
    """Write three splits of at most `sizes` rows, chosen by hash; return the number of rows of each."""
    results: dict[str, list[tuple[str, dict[str, Any]]]] = {split: [] for split in SPLITS}
    rows = [(_key(row, labelled), row) for row in _read(source / labelled.file) if row.get(labelled.label) is not None]
    present = {row.get("split", "train") for _, row in rows}
    for key, row in rows:
        results[_split(key, row.get("split", "train"), present)].append((key, row))
    out.mkdir(parents=True, exist_ok=True)
    counts = {}
    for split, entries in results.items():
        kept = [row for _, row in sorted(entries, key=lambda entry: entry[0])[: sizes[split]]]
        keep = (*labelled.texts, labelled.label)
        lines = [json.dumps({name: row[name] for name in keep}, ensure_ascii=False) for row in kept]
        (out / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        counts[split] = len(lines)
    return counts


def read_split(folder: Path, split: str) -> list[dict[str, Any]]:
    """Return the rows of a split that `write_splits` wrote."""
    lines = (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _read(file: Path) -> Iterator[dict[str, Any]]:
    with lzma.open(file, "rt", encoding="utf-8") if file.suffix == ".xz" else file.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _key(row: dict[str, Any], labelled: Labelled) -> str:
    text = json.dumps([row[name] for name in labelled.texts], ensure_ascii=False).casefold()
    return hashlib.sha256(text.encode()).hexdigest()


def _split(key: str, own_split: str, present: set[str]) -> str:
    """Return the split that a row has, or one that the hash chooses if the data set has no dev or test split."""
    if own_split != "train":
        return own_split
    position, bound = int(key[:8], 16) / 2**32, 0.0
    for split, fraction in SPLIT_FRACTIONS.items():
        bound += 0.0 if split in present else fraction
        if position < bound:
            return split
    return "train"
