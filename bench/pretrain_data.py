"""Prepare the data of `bench/pretrain.py`: one text and one tokenizer for both, and fixed masked sequences to judge.

`chunks` is the grouping of the run_mlm recipe: documents with their special tokens are joined and divided every 128
tokens. `lines` is its line-by-line mode: every non-empty line is a document, truncated at 128 tokens. encodery reads
the same documents (or lines) from its token folder.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import zstandard

from encodery.base.artifact import Artifact, create_artifact
from encodery.corpus.shards import read_documents, shard_paths
from encodery.tokens.tokenizer import Tokenizer

LAYOUTS = ("chunks", "lines")
JUDGE_RATE = 0.15
JUDGE_SEQUENCES = 600


def lines_corpus(corpus: Path, out: Path) -> None:
    """Write a corpus artifact whose documents are the non-empty lines of `corpus`."""
    with create_artifact(out, "corpus", {"made": "lines"}, {"corpus": Artifact.open(corpus, "corpus")}) as draft:
        for split in ("train", "heldout"):
            folder = draft.path / split
            folder.mkdir()
            with zstandard.open(folder / "00000.jsonl.zst", "wt", encoding="utf-8") as file:
                for number, line in enumerate(_lines(corpus, split)):
                    file.write(json.dumps({"id": f"{split}-{number}", "text": line, "metadata": {}}) + "\n")
        (draft.path / "report.json").write_text("{}")


def _lines(corpus: Path, split: str) -> Iterator[str]:
    for document in read_documents(shard_paths(corpus, split)):
        yield from (line for line in document.text.splitlines() if line.strip())


def peer_sequences(
    corpus: Path, split: str, tokenizer: Tokenizer, layout: str, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return (ids, offsets) of the peer's sequences, with special tokens, none longer than `length`."""
    texts = _lines(corpus, split) if layout == "lines" else (d.text for d in read_documents(shard_paths(corpus, split)))
    pieces: list[np.ndarray] = []
    for batch in itertools.batched(texts, 512) if hasattr(itertools, "batched") else _batched(texts, 512):
        for ids in tokenizer.encode_batch(list(batch)):
            body = ids[: length - 2] if layout == "lines" else ids
            pieces.append(np.concatenate(([tokenizer.cls_id], body, [tokenizer.sep_id])).astype(np.int32))
    if layout == "chunks":
        stream = np.concatenate(pieces)
        count = len(stream) // length
        return stream[: count * length], np.arange(count + 1) * length
    return np.concatenate(pieces), np.concatenate(([0], np.cumsum([len(piece) for piece in pieces])))


def _batched(items: Iterator[str], size: int) -> Iterator[list[str]]:
    while batch := list(itertools.islice(items, size)):
        yield batch


def judge_sequences(ids: np.ndarray, offsets: np.ndarray, tokenizer: Tokenizer, seed: int = 0) -> dict[str, np.ndarray]:
    """Return held-out sequences with fixed masks at 15 % (all replaced by [MASK]), the same for every model."""
    rng = np.random.default_rng(seed)
    drawn = np.sort(rng.permutation(len(offsets) - 1)[:JUDGE_SEQUENCES])
    parts = [ids[offsets[i] : offsets[i + 1]] for i in drawn]
    stream = np.concatenate(parts)
    special = np.isin(stream, list(tokenizer.special_ids))
    masked = (rng.random(len(stream)) < JUDGE_RATE) & ~special
    bounds = np.concatenate(([0], np.cumsum([len(piece) for piece in parts])))
    return {"ids": np.where(masked, tokenizer.mask_id, stream), "labels": stream, "masked": masked, "offsets": bounds}
