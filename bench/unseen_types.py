"""Spans of types that training did not have, asked for by name (task `label_spans`), against the names exchanged.

    python bench/unseen_types.py --data DIR --pretrained FOLDER [--seeds 0 1]

Entities of WNUT17 in six types. `some types`: two of the six are struck from the training rows, then asked for on test
rows, for each pair of PAIRS; `all types`: the same rows with nothing struck. `many types`: no entity of WNUT17 at all,
but answers of SQuAD's questions under what the question asks for ("Which river …": river), some hundred names; none of
the six is among them. Thresholds are those that training chose on held-out rows of the types it had. The references:
the same answers with names exchanged within what is asked, which finds as many spans and knows nothing of names; and
every run of capitalised words, under a name drawn at random. Figures are F1 over exact spans and types.
"""

from __future__ import annotations

import argparse
import json
import lzma
import random
import re
import shutil
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NAMES = ("location", "creative work", "person", "product", "group", "corporation")
PAIRS = (NAMES[:2], NAMES[2:4])
LEARN = ("optim.lr=3e-4", "task.positive_weight=3", "task.max_span_words=8")
ASKS = re.compile(r"\b(?:what|which) ((?:[a-z]+ )?[a-z]+?) (?:is|are|was|were|did|does|do|has|have|had|can|would|of)\b")
BARE = ("who", "where", "when")
NO_NAME = re.compile(r"\b(?:is|are|was|were|did|does|do|has|have|had|can|would|a|an|the|of|in|to|he|she|it|they)\b")
MOST = 30  # rows of one name in the set of many types
OTHERS = 5  # names asked beside the right one there
Row = dict[str, Any]
Spans = set[tuple[int, int, str]]


def read(file: Path) -> Iterator[Row]:
    with lzma.open(file, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def entities(data: Path, split: str) -> list[Row]:
    """Rows of WNUT17 as text, `types` (all six) and `spans` in characters."""
    results = []
    for row in read(data / "tok/wnut17_ner.jsonl.xz"):
        if row["split"] != split:
            continue
        spans: list[Row] = []
        at = 0
        for word, tag in zip(row["tokens"], row["bio"], strict=True):
            label = tag[2:].replace("-", " ")
            if tag.startswith("B-"):
                spans.append({"start": at, "end": at + len(word), "label": label})
            elif tag.startswith("I-"):
                spans[-1]["end"] = at + len(word)
            at += len(word) + 1
        results.append({"text": " ".join(row["tokens"]), "types": list(NAMES), "spans": spans})
    return results


def without(rows: Sequence[Row], struck: Sequence[str]) -> list[Row]:
    """The rows as if nobody had heard of some types."""
    kept = [name for name in NAMES if name not in struck]
    return [{**row, "types": kept, "spans": [s for s in row["spans"] if s["label"] in kept]} for row in rows]


def asked_for(question: str) -> str | None:
    """What a question asks for: the noun behind what or which, or the bare word; None for neither."""
    words = question.lower()
    if match := ASKS.search(words):
        name = match[1]
        known = {word for one in NAMES for word in one.split()}
        return None if NO_NAME.search(name) or known & set(name.split()) else name
    first = words.split(" ", 1)[0]
    return first if first in BARE else None


def questions(data: Path, draw: random.Random) -> list[Row]:
    """Sentences of SQuAD with an answer in them, asked for under what its question asks for and under other names."""
    results = []
    for row in read(data / "qa/squad_dev.jsonl.xz"):
        name, answer = asked_for(row["question"]), next(iter(row["answers"]), None)
        if name is None or answer is None:
            continue
        start, end = answer["start"], answer["start"] + len(answer["text"])
        left = row["context"].rfind(". ", 0, start) + 2 if ". " in row["context"][:start] else 0
        right = row["context"].find(". ", end)
        text = row["context"][left : right + 1 if right >= 0 else None]
        span = {"start": start - left, "end": end - left, "label": name}
        if text[span["start"] : span["end"]] == answer["text"] and len(text) < 300 and len(answer["text"].split()) < 9:
            results.append({"text": text, "spans": [span]})
    counts, kept = Counter[str](), []
    pool = sorted({row["spans"][0]["label"] for row in results})
    for row in draw.sample(results, len(results)):
        right_one = row["spans"][0]["label"]
        counts[right_one] += 1
        if counts[right_one] <= MOST:
            names = [right_one, *draw.sample([name for name in pool if name != right_one], OTHERS)]
            kept.append({**row, "types": draw.sample(names, len(names))})
    return kept


def written(folder: Path, **splits: Sequence[Row]) -> Path:
    """A folder of training data."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    return folder


def f1(truth: Sequence[Spans], results: Sequence[Spans]) -> float:
    right = sum(len(one & other) for one, other in zip(truth, results, strict=True))
    return 2 * right / max(sum(map(len, truth)) + sum(map(len, results)), 1)


def renamed(results: Sequence[Spans], names: Sequence[str]) -> list[Spans]:
    """Each name replaced by the next."""
    other = dict(zip(names, [*names[1:], names[0]], strict=True))
    return [{(start, end, other[name]) for start, end, name in spans} for spans in results]


def capitals(rows: Sequence[Row], names: Sequence[str], seed: int) -> list[Spans]:
    """Runs of capitalised words, each under a name drawn at random."""
    draw, run = random.Random(seed), re.compile(r"\b[A-Z]\w*(?: [A-Z]\w*)*")
    return [{(m.start(), m.end(), draw.choice(names)) for m in run.finditer(row["text"])} for row in rows]


def answers(run: Path, rows: Sequence[Row], names: Sequence[str]) -> list[Spans]:
    """What a trained model says when asked for `names`."""
    from encodery.finetune.predict import Predictor
    from encodery.model.load import load_model

    table = {"text": [row["text"] for row in rows], "types": [list(names)] * len(rows)}
    results = Predictor.from_model(load_model(run)).predict(table).answers
    return [{(span["start"], span["end"], span["label"]) for span in answer["spans"]} for answer in results]


def trained(folder: Path, out: Path, seed: int, options: argparse.Namespace) -> Path:
    shutil.rmtree(out, ignore_errors=True)
    command = ["finetune", "label_spans", folder, "--model", options.pretrained, "--out", out, *LEARN]
    command += [f"epochs={options.epochs}", f"train.seed={seed}"]
    subprocess.run([sys.executable, "-m", "encodery", *map(str, command)], check=True, stdout=subprocess.PIPE)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pretrained", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=600, help="rows to learn from, with at least one entity each")
    parser.add_argument("--test", type=int, default=400)
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--work", type=Path, default=Path("runs/bench_unseen_types"))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "unseen_types.json")
    options = parser.parse_args()

    from encodery.base import machine

    draw = random.Random(0)
    some = [row for row in entities(options.data, "train") if row["spans"]]
    some = draw.sample(some, min(options.rows, len(some)))
    held, test = (draw.sample(entities(options.data, split), n) for split, n in (("dev", 150), ("test", options.test)))
    many = questions(options.data, draw)[: options.rows + 150]
    written(options.work / "many types", train=many[150:], dev=many[:150])
    written(options.work / "all types", train=some, dev=held)
    for pair in PAIRS:
        written(options.work / f"without {' and '.join(pair)}", train=without(some, pair), dev=without(held, pair))

    results: dict[str, list[float]] = {}

    def judge(name: str, queries: Sequence[str], message: list[Spans]) -> None:
        truth = [{(s["start"], s["end"], s["label"]) for s in row["spans"] if s["label"] in queries} for row in test]
        results.setdefault(name, []).append(f1(truth, message))
        print(f"{name}: {results[name][-1]:.4f}", flush=True)

    for seed in options.seeds:
        for pair in PAIRS:
            what = " and ".join(pair)
            run = trained(options.work / f"without {what}", options.work / "run", seed, options)
            message = answers(run, test, pair)
            judge(f"{what}: some types", pair, message)
            judge(f"{what}: some types, names exchanged", pair, renamed(message, pair))
        for kind in ("all types", "many types"):
            run = trained(options.work / kind, options.work / "run", seed, options)
            for queries in (*PAIRS, NAMES):
                what = "all six" if queries is NAMES else " and ".join(queries)
                message = answers(run, test, queries)
                judge(f"{what}: {kind}", queries, message)
                judge(f"{what}: {kind}, names exchanged", queries, renamed(message, queries))
        for queries in (*PAIRS, NAMES):
            what = "all six" if queries is NAMES else " and ".join(queries)
            judge(f"{what}: capitals", queries, capitals(test, queries, seed))
    spread = {name: statistics.stdev(values) if len(values) > 1 else 0.0 for name, values in results.items()}
    table = {
        "figure": "f1 of exact spans and types",
        "settings": {
            "rows": options.rows,
            "test": options.test,
            "epochs": options.epochs,
            "seeds": options.seeds,
            "all": LEARN,
            "names of many types": len({name for row in many[150:] for name in row["types"]}),
        },
        "machine": machine.describe(),
        "runs": results,
        "summary": {name: {"mean": statistics.mean(values), "sd": spread[name]} for name, values in results.items()},
    }
    options.out.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
