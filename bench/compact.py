"""Measure the retrieval quality of embeddings stored in fewer bits, and of static embeddings.

    python bench/compact.py --data DIR --pretrained FOLDER

The metric is nDCG@10 of 200 questions on a thousand and more paragraphs of SQuAD by exact search, with 95 % intervals.
All texts are encoded once; each row applies other post-processing. Differences to the unchanged embeddings are paired
(bootstrap, sign flips). `binary, reranked`: the first 100 hits by the binary embeddings are reranked by the product of
the real-valued query with the binary documents (the second stage of BPR), or with the unchanged embeddings.
Post-processing is fitted to the paragraphs. `static`: a table of token embeddings that is distilled from the same
model; the tokens are weighted by their counts in the paragraphs or by their rank.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from encodery.base import machine
from encodery.encoders.loading import load_dense
from encodery.encoders.postprocess import PostProcess
from encodery.encoders.postprocess.binary import Binary
from encodery.encoders.postprocess.int8 import Int8
from encodery.encoders.postprocessing import PostProcessing
from encodery.encoders.static_distillation import StaticDistillationSettings, distill_static
from encodery.evaluate.significance import mean_difference, mean_interval
from encodery.metrics.ndcg import NDCG
from encodery.model.load import load_model
from methods import beir

HERE = Path(__file__).resolve().parent
CANDIDATES = 100
STATIC_DIM = 256
Vectors = tuple[np.ndarray, np.ndarray]
"""The embeddings of the questions (Q, H) and of the paragraphs (P, H)."""


def postprocess(steps: Sequence[PostProcess], full: Vectors) -> Vectors:
    """Fit post-processing steps to the paragraphs and apply them to both."""
    fitted = PostProcessing.fitted(steps, full[1])
    return fitted.apply(full[0]), fitted.apply(full[1])


def rerank(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return scores (Q, P): `second` for the `CANDIDATES` best documents by `first`, minus infinity for all others."""
    kept = np.argsort(-first, axis=1, kind="stable")[:, :CANDIDATES]
    results = np.full(first.shape, -np.inf)
    np.put_along_axis(results, kept, np.take_along_axis(second, kept, axis=1), axis=1)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="The data folder; it contains ir/squad.")
    parser.add_argument("--pretrained", type=Path, required=True, help="The folder of the embedding model.")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "compact.json", help="The JSON file to write.")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        beir(options.data / "ir/squad", work, random.Random(0))
        ids, texts = _read(work / "corpus.jsonl")
        queries, questions = _read(work / "queries.jsonl")
        relevant: dict[str, dict[str, int]] = {}
        for line in (work / "qrels/test.tsv").read_text(encoding="utf-8").splitlines()[1:]:
            query, document, grade = line.split("\t")
            relevant.setdefault(query, {})[document] = int(grade)

        def encode_both(model: Path) -> Vectors:
            embedder = load_dense(load_model(model))
            of_questions, of_texts = (embedder.encode(some, truncate="right").vectors for some in (questions, texts))
            return of_questions, of_texts

        full = encode_both(options.pretrained)
        bits, plain = postprocess([Binary()], full), postprocess([Binary(centred=False)], full)
        byte = postprocess([Int8()], full)
        scores = {
            "whole": full[0] @ full[1].T,
            "int8": byte[0] @ byte[1].T,
            "binary": bits[0] @ bits[1].T,
            "binary, cut at zero": plain[0] @ plain[1].T,
            "binary, reranked by real-valued queries": rerank(bits[0] @ bits[1].T, full[0] @ bits[1].T),
            "binary, reranked by whole vectors": rerank(bits[0] @ bits[1].T, full[0] @ full[1].T),
        }
        for name, counted_texts in (("static, counted", texts), ("static, by rank", None)):
            loaded = load_model(options.pretrained)
            distill_static(loaded, work / name, StaticDistillationSettings(dimension=STATIC_DIM), counted_texts)
            static = encode_both(work / name)
            scores[name] = static[0] @ static[1].T

    each = {}
    for name, table in scores.items():
        run = {query: dict(zip(ids, map(float, row), strict=True)) for query, row in zip(queries, table, strict=True)}
        each[name] = NDCG(k=10).per_item(relevant, run)
    rows: list[dict[str, Any]] = []
    for name, values in each.items():
        row: dict[str, Any] = {"vectors": name, "ndcg@10": float(values.mean()), "interval": mean_interval(values)}
        if name != "whole":
            difference = mean_difference(each["whole"], values)
            row |= {"difference": difference.value, "difference_interval": difference.interval, "p": difference.p}
        rows.append(row)
        print(row, flush=True)
    settings = {"questions": len(queries), "paragraphs": len(ids), "candidates": CANDIDATES, "static width": STATIC_DIM}
    report = {"machine": machine.describe(), "settings": settings, "rows": rows}
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _read(file: Path) -> tuple[list[str], list[str]]:
    """Return the ids and the texts of a JSON-lines file."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [row["_id"] for row in rows], [row["text"] for row in rows]


if __name__ == "__main__":
    main()
