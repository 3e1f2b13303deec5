"""Compare BM25, dense, hybrid and reranked search on collections in BEIR's layout, against bm25s on the same queries.

    python bench/retrieval.py COLLECTION ... --pretrained FOLDER [--train FILE] [--queries 300]

Systems: `bm25s` (with its English stop words and stemmer, Lucene's formula with our k1 and b), and an index of
`encodery search` in several modes: bm25, dense, hybrid (with the fusion weight that the index chose without labels),
and hybrid with the first 30 passages reranked by each of `--rerankers`. A reranker has the weight that `encodery
search tune-rerank` chooses without labels, or a weight of 0.5 (`half`) or 1 (`alone`). `late`: a multi-vector model
(ColBERT), trained by `encodery embed train --recipe colbert` on the pairs of `--train` (rows with query and positive,
of other texts than those of the collections). `tilde`: term weights (TILDEv2), trained by `--recipe tilde_v2` on the
same pairs. `cross`: a cross-encoder, trained by `encodery finetune rank` on some of the pairs, with negatives from
bm25s.

Group `plain`: BM25 of both programs without stop words and stemming, so that only the formula differs. Group `stored`:
dense search with vectors that are stored, or computed, with fewer bits, and the bytes of the index; its differences are
to float32. The metric is nDCG@10 with 95 % intervals, and the difference to bm25 of the index with the p-value of a
randomisation test, all computed by `encodery.evaluate`.
"""

from __future__ import annotations

import argparse
import json
import lzma
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encodery.base import machine
from encodery.evaluate.compare import SuiteTask, compare
from encodery.evaluate.suites.retrieval import RetrievalSuite
from encodery.evaluate.systems import OpenSystem, Role, Run, System, UnsupportedEvaluation, Vectors
from encodery.evaluate.systems.bm25 import BM25System
from encodery.evaluate.systems.index import IndexSystem
from encodery.search.tune_rerank import rerank_weight_of

STORED = ("fp32", "fp16", "int8", "binary")
HERE = Path(__file__).resolve().parent
K1, B = 1.2, 0.75
NEGATIVES = 3
RERANKERS = {"late": "token vectors", "tilde": "term weights", "cross": "cross-encoder"}
RECIPES = {"late": "colbert", "tilde": "tilde_v2"}
FIRST_RANK, END_RANK = 2, 20  # The ranks, from 0, that negatives are drawn from; the end is excluded.


@dataclass(frozen=True, kw_only=True)
class BM25S(System):
    """The library bm25s.

    `stemmed`: with its English stop words and stemmer, as in its documentation; otherwise with the plain words.
    """

    stemmed: bool = True

    @property
    def label(self) -> str:
        return "bm25s" if self.stemmed else "bm25s plain"

    def open(self) -> OpenSystem:
        return _OpenBM25S(self)


class _OpenBM25S(OpenSystem):
    symmetric = False

    def __init__(self, settings: BM25S) -> None:
        super().__init__(settings.label)
        self._tokenize = tokenizer_of(settings.stemmed)

    def rank(self, queries: Mapping[str, str], documents: Mapping[str, str], depth: int) -> Run:
        """See `OpenSystem`."""
        import bm25s

        names = list(documents)
        engine = bm25s.BM25(k1=K1, b=B, method="lucene")
        engine.index(self._tokenize(documents.values()), show_progress=False)
        with self.counters.clock():
            indices, scores = engine.retrieve(
                self._tokenize(queries.values()), k=min(depth, len(names)), show_progress=False, n_threads=1
            )
        self.counters.add(len(queries), None, 0, 0)
        return {
            query: {names[n]: float(score) for n, score in zip(row, values, strict=True) if score > 0}
            for query, row, values in zip(queries, indices, scores, strict=True)
        }

    def encode(self, texts: Sequence[str], role: Role | None = None) -> Vectors:
        raise UnsupportedEvaluation(f"{self.name}: ranks documents for queries; it has no vectors.")


def tokenizer_of(stemmed: bool) -> Callable[[Iterable[str]], Any]:
    """Return a function from texts to the terms of bm25s."""
    import bm25s
    import Stemmer

    stemmer, stop_words = (Stemmer.Stemmer("english"), "en") if stemmed else (None, [])

    def tokenize(texts: Iterable[str]) -> Any:
        # Plain words as in our own BM25, which include words of one letter.
        extra = {} if stemmed else {"token_pattern": r"(?u)\b\w+\b"}
        return bm25s.tokenize(list(texts), stopwords=stop_words, stemmer=stemmer, show_progress=False, **extra)

    return tokenize


def encodery(*arguments: str | Path | int) -> None:
    """Run one encodery command as a user would."""
    subprocess.run([sys.executable, "-m", "encodery", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def pairs_of(file: Path) -> list[tuple[str, str]]:
    """Return the query and the positive of every row."""
    with lzma.open(file, "rt", encoding="utf-8") if file.suffix == ".xz" else file.open(encoding="utf-8") as lines:
        return [(row["query"], row["positive"]) for row in map(json.loads, lines)]


def write_pairs(pairs: Sequence[tuple[str, str]], max_pairs: int, out: Path) -> None:
    """Write pairs that are drawn at random."""
    with out.open("w", encoding="utf-8") as rows:
        for query, positive in random.Random(0).sample(pairs, min(max_pairs, len(pairs))):
            rows.write(json.dumps({"query": query, "positive": positive}, ensure_ascii=False) + "\n")


def write_labelled_pairs(pairs: Sequence[tuple[str, str]], queries: int, out: Path) -> None:
    """Write pairs of query and passage with label 1 (the positive) or 0 (negatives that bm25s finds)."""
    import bm25s

    passages = list(dict.fromkeys(passage for _, passage in pairs))
    rng = random.Random(0)
    sampled = rng.sample(pairs, min(queries, len(pairs)))
    tokenize = tokenizer_of(True)
    engine = bm25s.BM25(k1=K1, b=B, method="lucene")
    engine.index(tokenize(passages), show_progress=False)
    indices, _ = engine.retrieve(tokenize([query for query, _ in sampled]), k=END_RANK, show_progress=False)
    with out.open("w", encoding="utf-8") as rows:
        for (query, positive), results in zip(sampled, indices, strict=True):
            others = [passages[n] for n in results[FIRST_RANK:] if passages[n] != positive]
            for text, label in [(positive, 1), *((text, 0) for text in rng.sample(others, NEGATIVES))]:
                rows.write(json.dumps({"query": query, "text": text, "label": label}, ensure_ascii=False) + "\n")


def unpack(collection: Path, out: Path) -> Path:
    """Copy a collection, with its .xz files decompressed."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for file in (file for file in collection.rglob("*") if file.is_file()):
        target = out / file.relative_to(collection)
        target.parent.mkdir(exist_ok=True)
        data = file.read_bytes()
        target.with_suffix("" if file.suffix == ".xz" else file.suffix).write_bytes(
            lzma.decompress(data) if file.suffix == ".xz" else data
        )
    return out


def train_rerankers(options: argparse.Namespace) -> dict[str, Path]:
    """Train the rerankers that do not exist yet and return name -> folder."""
    results: dict[str, Path] = {}
    for kind in options.rerankers if options.train is not None else ():
        out, rows = options.work / f"reranker-{kind}", options.work / f"rerank-{kind}.jsonl"
        results[RERANKERS[kind]] = out
        if (out / "manifest.json").is_file():
            continue
        pairs = pairs_of(options.train)
        if kind in RECIPES:
            write_pairs(pairs, options.train_pairs, rows)
            command = ["embed", "train", rows, "--recipe", RECIPES[kind]]
        else:
            write_labelled_pairs(pairs, options.train_queries, rows)
            command = ["finetune", "rank", rows]
        encodery(*command, "--model", options.pretrained, "--out", out, "epochs=1")
    return results


def run_collection(collection: Path, options: argparse.Namespace, rerankers: Mapping[str, Path]) -> dict[str, Any]:
    """Index one collection and evaluate all systems on it."""
    name = collection.name
    data, index = unpack(collection, options.work / name), options.work / f"{name}-index"
    encodery("search", "index", data / "corpus.jsonl", "--model", options.pretrained, "--out", index)
    ours = [IndexSystem(path=str(index), name=mode, mode=mode) for mode in ("bm25", "dense", "hybrid")]
    for label, folder in rerankers.items():
        encodery("search", "tune-rerank", index, "--rerank", folder)
        reranker = folder
        if label == RERANKERS["tilde"]:
            reranker = options.work / f"{name}-weights"
            encodery("search", "precompute-terms", index, "--model", folder, "--out", reranker)
        weights = {"": rerank_weight_of(index, folder), " alone": 1.0, " half": 0.5}
        ours += [
            IndexSystem(
                path=str(index),
                name=f"hybrid, {label}{suffix}",
                mode="hybrid",
                rerank=str(reranker),
                rerank_weight=weight,
            )
            for suffix, weight in weights.items()
        ]
    task = SuiteTask(suite=RetrievalSuite(max_queries=options.queries), data=data, name=name)
    results = compare([*ours, BM25S()], [task], log=lambda line: print(line, flush=True)).to_dict()
    plain = compare(
        [BM25System(name="encodery plain", k1=K1, b=B, stop_words=False), BM25S(stemmed=False)], [task]
    ).to_dict()
    metrics = json.loads((index / "manifest.json").read_text())["metrics"]
    keys = ("documents", "passages", "bytes", "weight", "seconds")
    return {
        "set": name,
        "index": {key: metrics[key] for key in keys},
        "shares": {label: rerank_weight_of(index, folder) for label, folder in rerankers.items()},
        "rows": results["rows"],
        "plain": plain["rows"],
        "stored": run_stored(name, data, options) if options.stored else [],
    }


def run_stored(name: str, data: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Evaluate dense search with vectors that are stored in fewer bits, or computed by the int8 runtime."""
    variants = [("torch", kind) for kind in STORED] + [("packed_int8", kind) for kind in ("fp32", "int8")]
    systems, indexes = [], []
    for runtime, kind in variants:
        encoded, index = options.work / f"{name}-by-{runtime}", options.work / f"{name}-{runtime}-{kind}"
        encodery(
            "search", "encode", data / "corpus.jsonl", "--model", options.pretrained, "--runtime", runtime,
            "--out", encoded,
        )  # fmt: skip
        encodery("search", "index", "--encoded", encoded, "--out", index, f"vectors={kind}")
        systems.append(IndexSystem(path=str(index), name=f"{kind} by {runtime}", mode="dense"))
        indexes.append(json.loads((index / "manifest.json").read_text())["metrics"])
    task = SuiteTask(suite=RetrievalSuite(max_queries=options.queries), data=data, name=name)
    rows = compare(systems, [task], log=lambda line: print(line, flush=True)).to_dict()["rows"]
    keys = ("bytes", "exact_recall")
    results = []
    for system, metrics in zip(systems, indexes, strict=True):
        results += [row | {key: metrics.get(key) for key in keys} for row in rows if row["system"] == system.label]
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collections", nargs="+", type=Path, help="Folders in BEIR's layout, plain or .xz.")
    parser.add_argument("--pretrained", type=Path, required=True, help="The folder of the encoder.")
    parser.add_argument("--train", type=Path, help="Training pairs of the rerankers: rows with query and positive.")
    parser.add_argument("--rerankers", nargs="+", choices=RERANKERS, default=["late"], help="The rerankers to train.")
    parser.add_argument(
        "--train-pairs", type=int, default=8000, help="The maximum number of pairs for `late` and `tilde`."
    )
    parser.add_argument("--train-queries", type=int, default=1500, help="The maximum number of queries for `cross`.")
    parser.add_argument(
        "--stored", action=argparse.BooleanOptionalAction, default=True, help="Whether to run the group `stored`."
    )
    parser.add_argument("--queries", type=int, default=300, help="The maximum number of queries per collection.")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/bench_retrieval"), help="The folder of the indexes and models."
    )
    parser.add_argument("--out", type=Path, default=HERE / "results" / "retrieval.json", help="The JSON file to write.")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    rerankers = train_rerankers(options)
    settings = {"queries": options.queries}
    if rerankers:
        settings |= {"train_pairs": options.train_pairs, "train_queries": options.train_queries}
    result: dict[str, Any] = {"machine": machine.describe(), "settings": settings, "sets": []}
    for collection in options.collections:
        result["sets"].append(run_collection(collection, options, rerankers))
        options.out.write_text(json.dumps(result, indent=1) + "\n")
        for row in [row for part in ("rows", "plain", "stored") for row in result["sets"][-1][part]]:
            difference = f"{row['difference']:+.4f} p {row['p']:.3f}" if "difference" in row else ""
            interval = f"[{row['low']:.3f} {row['high']:.3f}]"
            size = f"{row['bytes'] / 1e6:.1f} MB" if "bytes" in row else ""
            print(f"{collection.name:10} {row['system']:18} {row['value']:.4f} {interval} {difference} {size}")


if __name__ == "__main__":
    main()
