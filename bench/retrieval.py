"""Retrieval: words, vectors, both and reranked, on collections in BEIR's layout, against bm25s on the same queries.

    python bench/retrieval.py COLLECTION ... --pretrained FOLDER [--train FILE] [--queries 300]

Systems: `bm25s` (its English stop words and stemmer, Lucene's formula at our k1 and b), and an index of `encodery
search` asked several ways: bm25, dense, hybrid (the weight it found by itself, without labels), and hybrid with the
first 30 passages ordered anew by each of --rerankers, which has the share in the last word that `search trust` finds
for it without labels, or half of it, or all: `late`, token vectors (ColBERT) by `encodery embed train --recipe
colbert` on the pairs of --train (rows with query and positive, of other texts than the collections'), `tilde`, term
weights (TILDEv2) by `--recipe tilde_v2` on the same, and `cross`, a cross-encoder by `encodery finetune rank` on some
of them, with negatives found by bm25s. Also `plain`, both programs' BM25 without stop words and stems, where the
formula is all there is. And `stored`: dense alone, where vectors are stored or made in fewer bits, with the bytes of
the index; differences there are to float32. Figures are nDCG@10 with 95 % intervals, differences to the index's bm25
with the probability of a randomisation test; all by `encodery.evaluate`.
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
FIRST, LAST = 2, 20  # Ranks, from 0, of the passages that negatives are drawn from.


@dataclass(frozen=True, kw_only=True)
class BM25S(System):
    """The library bm25s. `stemmed`: with its English stop words and stemmer, as its documentation shows; else words as
    they are."""

    stemmed: bool = True

    @property
    def label(self) -> str:
        return "bm25s" if self.stemmed else "bm25s plain"

    def open(self) -> OpenSystem:
        return _Opened(self)


class _Opened(OpenSystem):
    symmetric = False

    def __init__(self, settings: BM25S) -> None:
        super().__init__(settings.label)
        self._cut = cutter(settings.stemmed)

    def rank(self, queries: Mapping[str, str], documents: Mapping[str, str], depth: int) -> Run:
        """See `Opened`."""
        import bm25s

        names = list(documents)
        engine = bm25s.BM25(k1=K1, b=B, method="lucene")
        engine.index(self._cut(documents.values()), show_progress=False)
        with self.counters.clock():
            places, scores = engine.retrieve(
                self._cut(queries.values()), k=min(depth, len(names)), show_progress=False, n_threads=1
            )
        self.counters.add(len(queries), None, 0, 0)
        return {
            query: {names[n]: float(score) for n, score in zip(row, values, strict=True) if score > 0}
            for query, row, values in zip(queries, places, scores, strict=True)
        }

    def encode(self, texts: Sequence[str], role: Role | None = None) -> Vectors:
        raise UnsupportedEvaluation(f"{self.name}: finds documents for queries; it gives no vectors.")


def cutter(stemmed: bool) -> Callable[[Iterable[str]], Any]:
    """Texts to the words that bm25s counts."""
    import bm25s
    import Stemmer

    stemmer, stop = (Stemmer.Stemmer("english"), "en") if stemmed else (None, [])

    def cut(texts: Iterable[str]) -> Any:
        # Plain words are those of our own BM25: of one letter too.
        extra = {} if stemmed else {"token_pattern": r"(?u)\b\w+\b"}
        return bm25s.tokenize(list(texts), stopwords=stop, stemmer=stemmer, show_progress=False, **extra)

    return cut


def encodery(*arguments: str | Path | int) -> None:
    """Run one encodery command as a user would."""
    subprocess.run([sys.executable, "-m", "encodery", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def pairs_of(file: Path) -> list[tuple[str, str]]:
    """Query and positive of every row."""
    with lzma.open(file, "rt", encoding="utf-8") if file.suffix == ".xz" else file.open(encoding="utf-8") as lines:
        return [(row["query"], row["positive"]) for row in map(json.loads, lines)]


def rows_for_late(pairs: Sequence[tuple[str, str]], most: int, out: Path) -> None:
    """Pairs as they are, drawn at random."""
    with out.open("w", encoding="utf-8") as rows:
        for query, positive in random.Random(0).sample(pairs, min(most, len(pairs))):
            rows.write(json.dumps({"query": query, "positive": positive}, ensure_ascii=False) + "\n")


def rows_for_cross(pairs: Sequence[tuple[str, str]], queries: int, out: Path) -> None:
    """Pairs of query and passage with label 1 or 0: each query's own passage, and some that bm25s finds for it."""
    import bm25s

    passages = list(dict.fromkeys(passage for _, passage in pairs))
    draw = random.Random(0)
    chosen = draw.sample(pairs, min(queries, len(pairs)))
    cut = cutter(True)
    engine = bm25s.BM25(k1=K1, b=B, method="lucene")
    engine.index(cut(passages), show_progress=False)
    places, _ = engine.retrieve(cut([query for query, _ in chosen]), k=LAST, show_progress=False)
    with out.open("w", encoding="utf-8") as rows:
        for (query, positive), results in zip(chosen, places, strict=True):
            others = [passages[n] for n in results[FIRST:] if passages[n] != positive]
            for text, label in [(positive, 1), *((text, 0) for text in draw.sample(others, NEGATIVES))]:
                rows.write(json.dumps({"query": query, "text": text, "label": label}, ensure_ascii=False) + "\n")


def unpacked(collection: Path, out: Path) -> Path:
    """The collection with plain files."""
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


def trained(options: argparse.Namespace) -> dict[str, Path]:
    """Name -> folder of each reranker; one that is there already is not trained again."""
    results: dict[str, Path] = {}
    for kind in options.rerankers if options.train is not None else ():
        out, rows = options.work / f"reranker-{kind}", options.work / f"rerank-{kind}.jsonl"
        results[RERANKERS[kind]] = out
        if (out / "manifest.json").is_file():
            continue
        pairs = pairs_of(options.train)
        if kind in RECIPES:
            rows_for_late(pairs, options.train_pairs, rows)
            command = ["embed", "train", rows, "--recipe", RECIPES[kind]]
        else:
            rows_for_cross(pairs, options.train_queries, rows)
            command = ["finetune", "rank", rows]
        encodery(*command, "--model", options.pretrained, "--out", out, "epochs=1")
    return results


def measured(collection: Path, options: argparse.Namespace, rerankers: Mapping[str, Path]) -> dict[str, Any]:
    """One collection: the index, its systems, and both plain formulas."""
    name = collection.name
    data, index = unpacked(collection, options.work / name), options.work / f"{name}-index"
    encodery("search", "index", data / "corpus.jsonl", "--model", options.pretrained, "--out", index)
    ours = [IndexSystem(path=str(index), name=mode, mode=mode) for mode in ("bm25", "dense", "hybrid")]
    for label, folder in rerankers.items():
        encodery("search", "tune-rerank", index, "--rerank", folder)
        again = folder
        if label == RERANKERS["tilde"]:
            again = options.work / f"{name}-weights"
            encodery("search", "precompute-terms", index, "--model", folder, "--out", again)
        shares = {"": rerank_weight_of(index, folder), " alone": 1.0, " half": 0.5}
        ours += [
            IndexSystem(
                path=str(index), name=f"hybrid, {label}{how}", mode="hybrid", rerank=str(again), rerank_weight=share
            )
            for how, share in shares.items()
        ]
    task = SuiteTask(suite=RetrievalSuite(max_queries=options.queries), data=data, name=name)
    results = compare([*ours, BM25S()], [task], log=lambda line: print(line, flush=True)).to_dict()
    plain = compare(
        [BM25System(name="encodery plain", k1=K1, b=B, stop_words=False), BM25S(stemmed=False)], [task]
    ).to_dict()
    metrics = json.loads((index / "manifest.json").read_text())["metrics"]
    kept = ("documents", "passages", "bytes", "weight", "seconds")
    return {
        "set": name,
        "index": {key: metrics[key] for key in kept},
        "shares": {label: rerank_weight_of(index, folder) for label, folder in rerankers.items()},
        "rows": results["rows"],
        "plain": plain["rows"],
        "stored": stored(name, data, options) if options.stored else [],
    }


def stored(name: str, data: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Dense search alone, by vectors stored in fewer bits, or made by 8-bit products."""
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
    kept = ("bytes", "exact_recall")
    results = []
    for system, metrics in zip(systems, indexes, strict=True):
        results += [row | {key: metrics.get(key) for key in kept} for row in rows if row["system"] == system.label]
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collections", nargs="+", type=Path)
    parser.add_argument("--pretrained", type=Path, required=True, help="the encoder")
    parser.add_argument("--train", type=Path, help="pairs for the rerankers")
    parser.add_argument("--rerankers", nargs="+", choices=RERANKERS, default=["late"])
    parser.add_argument("--train-pairs", type=int, default=8000, help="of them for the token vectors")
    parser.add_argument("--train-queries", type=int, default=1500, help="of them for the cross-encoder")
    parser.add_argument("--stored", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--queries", type=int, default=300, help="of each collection at most")
    parser.add_argument("--work", type=Path, default=Path("runs/bench_retrieval"))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "retrieval.json")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    rerankers = trained(options)
    settings = {"queries": options.queries}
    if rerankers:
        settings |= {"train_pairs": options.train_pairs, "train_queries": options.train_queries}
    result: dict[str, Any] = {"machine": machine.describe(), "settings": settings, "sets": []}
    for collection in options.collections:
        result["sets"].append(measured(collection, options, rerankers))
        options.out.write_text(json.dumps(result, indent=1) + "\n")
        for row in [row for part in ("rows", "plain", "stored") for row in result["sets"][-1][part]]:
            apart = f"{row['difference']:+.4f} p {row['p']:.3f}" if "difference" in row else ""
            interval = f"[{row['low']:.3f} {row['high']:.3f}]"
            size = f"{row['bytes'] / 1e6:.1f} MB" if "bytes" in row else ""
            print(f"{collection.name:10} {row['system']:18} {row['value']:.4f} {interval} {apart} {size}")


if __name__ == "__main__":
    main()
