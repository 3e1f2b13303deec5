"""What vectors in fewer bits cost in quality, and token vectors without attention: one encoding, finished in many ways.

    python bench/compact.py --data DIR --pretrained FOLDER

nDCG@10 of 200 questions on a thousand and more paragraphs of SQuAD by exact search, with 95 % intervals; differences to
the whole vectors are paired (bootstrap, sign flips). `binary, reranked`: the first 100 by bits are ranked anew by the
product of the real-valued query with the bits (BPR's second stage), or with the whole vectors. What finishes learn they
learn from the paragraphs. `static`: a table of token vectors distilled from the same model, its tokens counted in the
paragraphs or weighed by their rank.
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
from encodery.encoders.dense import DenseEncoder
from encodery.encoders.postprocess import PostProcess
from encodery.encoders.postprocess.binary import Binary
from encodery.encoders.postprocess.int8 import Int8
from encodery.encoders.postprocessing import PostProcessing
from encodery.encoders.static_distillation import StaticSettings, distill_static
from encodery.evaluate.significance import mean_difference, mean_interval
from encodery.metrics.ndcg import NDCG
from encodery.model.load import load_model
from methods import beir

HERE = Path(__file__).resolve().parent
CANDIDATES = 100
WIDTH = 256  # of the static vectors
Vectors = tuple[np.ndarray, np.ndarray]
"""Of questions (Q, H) and of paragraphs (P, H)."""


def finished(steps: Sequence[PostProcess], whole: Vectors) -> Vectors:
    made = PostProcessing.fitted(steps, whole[1])
    return made.apply(whole[0]), made.apply(whole[1])


def reranked(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(Q, P) scores: of the best by the first the second's, of the others nothing."""
    kept = np.argsort(-first, axis=1, kind="stable")[:, :CANDIDATES]
    results = np.full(first.shape, -np.inf)
    np.put_along_axis(results, kept, np.take_along_axis(second, kept, axis=1), axis=1)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pretrained", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "compact.json")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        beir(options.data / "ir/squad", work, random.Random(0))
        names, texts = _read(work / "corpus.jsonl")
        queries, questions = _read(work / "queries.jsonl")
        right: dict[str, dict[str, int]] = {}
        for line in (work / "qrels/test.tsv").read_text(encoding="utf-8").splitlines()[1:]:
            query, document, grade = line.split("\t")
            right.setdefault(query, {})[document] = int(grade)

        def encoded(model: Path) -> Vectors:
            embedder = DenseEncoder.from_loaded(load_model(model))
            of_questions, of_texts = (embedder.encode(some, truncate="right").vectors for some in (questions, texts))
            return of_questions, of_texts

        whole = encoded(options.pretrained)
        bits, plain = finished([Binary()], whole), finished([Binary(centred=False)], whole)
        byte = finished([Int8()], whole)
        scores = {
            "whole": whole[0] @ whole[1].T,
            "int8": byte[0] @ byte[1].T,
            "binary": bits[0] @ bits[1].T,
            "binary, cut at zero": plain[0] @ plain[1].T,
            "binary, reranked by real-valued queries": reranked(bits[0] @ bits[1].T, whole[0] @ bits[1].T),
            "binary, reranked by whole vectors": reranked(bits[0] @ bits[1].T, whole[0] @ whole[1].T),
        }
        for what, counted in (("static, counted", texts), ("static, by rank", None)):
            loaded = load_model(options.pretrained)
            distill_static(loaded, work / what, StaticSettings(dimension=WIDTH), counted)
            static = encoded(work / what)
            scores[what] = static[0] @ static[1].T

    each = {}
    for what, table in scores.items():
        run = {query: dict(zip(names, map(float, row), strict=True)) for query, row in zip(queries, table, strict=True)}
        each[what] = NDCG(k=10).per_item(right, run)
    rows: list[dict[str, Any]] = []
    for what, values in each.items():
        row: dict[str, Any] = {"vectors": what, "ndcg@10": float(values.mean()), "interval": mean_interval(values)}
        if what != "whole":
            apart = mean_difference(each["whole"], values)
            row |= {"difference": apart.value, "difference_interval": apart.interval, "p": apart.p}
        rows.append(row)
        print(row, flush=True)
    settings = {"questions": len(queries), "paragraphs": len(names), "candidates": CANDIDATES, "static width": WIDTH}
    report = {"machine": machine.describe(), "settings": settings, "rows": rows}
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _read(file: Path) -> tuple[list[str], list[str]]:
    """Names and texts."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [row["_id"] for row in rows], [row["text"] for row in rows]


if __name__ == "__main__":
    main()
