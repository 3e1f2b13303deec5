"""The labelled sets of `bench/tasks.py`: a JSON-lines file each, cut to a size that every system can be trained on.

A row has `split` (train, dev or test; where a split lacks, it is made from train by a hash of the text, so that equal
texts fall on one side). Written as a folder of train.jsonl, dev.jsonl, test.jsonl that any trainer can read.
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
SHARES = {"dev": 0.15, "test": 0.15}


@dataclass(frozen=True)
class Labelled:
    """A set: its `file` under the data folder, the `task` (`embed`: an embedding model from scored pairs, judged by its
    cosines), the figure by which it is judged, its texts' columns, and the column of its `label`."""

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


def cut(source: Path, labelled: Labelled, out: Path, sizes: dict[str, int]) -> dict[str, int]:
    """Write the three splits, of at most so many rows each, chosen by hash; the number of rows of each."""
    results: dict[str, list[tuple[str, dict[str, Any]]]] = {split: [] for split in SPLITS}
    rows = [(_key(row, labelled), row) for row in _read(source / labelled.file) if row.get(labelled.label) is not None]
    present = {row.get("split", "train") for _, row in rows}
    for key, row in rows:
        results[_split(key, row.get("split", "train"), present)].append((key, row))
    out.mkdir(parents=True, exist_ok=True)
    counts = {}
    for split, entries in results.items():
        chosen = [row for _, row in sorted(entries, key=lambda entry: entry[0])[: sizes[split]]]
        keep = (*labelled.texts, labelled.label)
        lines = [json.dumps({name: row[name] for name in keep}, ensure_ascii=False) for row in chosen]
        (out / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        counts[split] = len(lines)
    return counts


def read_split(folder: Path, split: str) -> list[dict[str, Any]]:
    """The rows of a split that `cut` wrote."""
    lines = (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _read(file: Path) -> Iterator[dict[str, Any]]:
    with lzma.open(file, "rt", encoding="utf-8") if file.suffix == ".xz" else file.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _key(row: dict[str, Any], labelled: Labelled) -> str:
    text = json.dumps([row[name] for name in labelled.texts], ensure_ascii=False).casefold()
    return hashlib.sha256(text.encode()).hexdigest()


def _split(key: str, inputs: str, present: set[str]) -> str:
    """The split a row was given, or one made from train by the key where the set has none of that name."""
    if inputs != "train":
        return inputs
    place, bound = int(key[:8], 16) / 2**32, 0.0
    for split, share in SHARES.items():
        bound += 0.0 if split in present else share
        if place < bound:
            return split
    return "train"
