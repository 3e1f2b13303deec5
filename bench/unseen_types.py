"""Measure span labelling (task `label_spans`) of types that are not in the training data, against exchanged type names.

    python bench/unseen_types.py --data DIR --pretrained FOLDER [--seeds 0 1]

The data are the entities of WNUT17, of six types. `some types`: two of the six are removed from the training rows and
then predicted on test rows, for each pair of `PAIRS`. `all types`: the same rows with all types. `many types`: no
entities of WNUT17, but answers of SQuAD, with the noun of the question as type ("Which river …": river), some hundred
types; none of the six is among them. Thresholds are those that training chose on dev rows with its own types.

The baselines are the same predictions with type names exchanged among the predicted types, which have as many spans but
no knowledge of the names, and every run of capitalised words with a random type. The metric is F1 over exact spans and
types.
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
SETTINGS = ("optim.lr=3e-4", "task.positive_weight=3", "task.max_span_words=8")
QUESTION_NOUN = re.compile(
    r"\b(?:what|which) ((?:[a-z]+ )?[a-z]+?) (?:is|are|was|were|did|does|do|has|have|had|can|would|of)\b"
)
QUESTION_WORDS = ("who", "where", "when")
NOT_A_NAME = re.compile(r"\b(?:is|are|was|were|did|does|do|has|have|had|can|would|a|an|the|of|in|to|he|she|it|they)\b")
MAX_ROWS = 30  # The maximum number of rows of one type, in the data of many types.
NUM_NEGATIVE_TYPES = 5  # The types of a row besides its own, in the data of many types.
Row = dict[str, Any]
Spans = set[tuple[int, int, str]]


def read(file: Path) -> Iterator[Row]:
    with lzma.open(file, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def entities(data: Path, split: str) -> list[Row]:
    """Return rows of WNUT17 as text, `types` (all six) and `spans` with character offsets."""
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


def remove_types(rows: Sequence[Row], removed: Sequence[str]) -> list[Row]:
    """Return the rows without some types and their spans."""
    selected = [name for name in NAMES if name not in removed]
    return [{**row, "types": selected, "spans": [s for s in row["spans"] if s["label"] in selected]} for row in rows]


def expected_type(question: str) -> str | None:
    """Return the type that a question asks for: the noun after "what" or "which", or the question word; else None."""
    lowered = question.lower()
    if match := QUESTION_NOUN.search(lowered):
        name = match[1]
        type_words = {word for one in NAMES for word in one.split()}
        return None if NOT_A_NAME.search(name) or type_words & set(name.split()) else name
    first = lowered.split(" ", 1)[0]
    return first if first in QUESTION_WORDS else None


def questions(data: Path, rng: random.Random) -> list[Row]:
    """Return sentences of SQuAD with one answer span each; the types are that of its question and random others."""
    results = []
    for row in read(data / "qa/squad_dev.jsonl.xz"):
        name, answer = expected_type(row["question"]), next(iter(row["answers"]), None)
        if name is None or answer is None:
            continue
        start, end = answer["start"], answer["start"] + len(answer["text"])
        left = row["context"].rfind(". ", 0, start) + 2 if ". " in row["context"][:start] else 0
        right = row["context"].find(". ", end)
        text = row["context"][left : right + 1 if right >= 0 else None]
        span = {"start": start - left, "end": end - left, "label": name}
        if text[span["start"] : span["end"]] == answer["text"] and len(text) < 300 and len(answer["text"].split()) < 9:
            results.append({"text": text, "spans": [span]})
    type_counts, selected = Counter[str](), []
    all_types = sorted({row["spans"][0]["label"] for row in results})
    for row in rng.sample(results, len(results)):
        own_type = row["spans"][0]["label"]
        type_counts[own_type] += 1
        if type_counts[own_type] <= MAX_ROWS:
            names = [own_type, *rng.sample([name for name in all_types if name != own_type], NUM_NEGATIVE_TYPES)]
            selected.append({**row, "types": rng.sample(names, len(names))})
    return selected


def write_splits(folder: Path, **splits: Sequence[Row]) -> Path:
    """Write a folder of training data."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    return folder


def f1(truth: Sequence[Spans], results: Sequence[Spans]) -> float:
    right = sum(len(one & other) for one, other in zip(truth, results, strict=True))
    return 2 * right / max(sum(map(len, truth)) + sum(map(len, results)), 1)


def exchange_names(results: Sequence[Spans], names: Sequence[str]) -> list[Spans]:
    """Replace each name by the next one."""
    other = dict(zip(names, [*names[1:], names[0]], strict=True))
    return [{(start, end, other[name]) for start, end, name in spans} for spans in results]


def capitalised_runs(rows: Sequence[Row], names: Sequence[str], seed: int) -> list[Spans]:
    """Return runs of capitalised words, each with a random type."""
    rng, run = random.Random(seed), re.compile(r"\b[A-Z]\w*(?: [A-Z]\w*)*")
    return [{(m.start(), m.end(), rng.choice(names)) for m in run.finditer(row["text"])} for row in rows]


def predict(run: Path, rows: Sequence[Row], names: Sequence[str]) -> list[Spans]:
    """Return the spans that a trained model predicts for the types `names`."""
    from encodery.finetune.predict import Predictor
    from encodery.model.load import load_model

    table = {"text": [row["text"] for row in rows], "types": [list(names)] * len(rows)}
    results = Predictor.from_model(load_model(run)).predict(table).answers
    return [{(span["start"], span["end"], span["label"]) for span in answer["spans"]} for answer in results]


def finetune(folder: Path, out: Path, seed: int, options: argparse.Namespace) -> Path:
    shutil.rmtree(out, ignore_errors=True)
    command = ["finetune", "label_spans", folder, "--model", options.pretrained, "--out", out, *SETTINGS]
    command += [f"epochs={options.epochs}", f"train.seed={seed}"]
    subprocess.run([sys.executable, "-m", "encodery", *map(str, command)], check=True, stdout=subprocess.PIPE)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="The folder of the data sets.")
    parser.add_argument("--pretrained", type=Path, required=True, help="The folder of the encoder.")
    parser.add_argument(
        "--rows", type=int, default=600, help="The number of training rows, each with at least one entity."
    )
    parser.add_argument("--test", type=int, default=400, help="The number of test rows.")
    parser.add_argument("--epochs", type=float, default=5, help="The number of epochs.")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1], help="The seeds; each data set is trained once per seed."
    )
    parser.add_argument(
        "--work", type=Path, default=Path("runs/bench_unseen_types"), help="The folder of the data and the runs."
    )
    parser.add_argument(
        "--out", type=Path, default=HERE / "results" / "unseen_types.json", help="The JSON file to write."
    )
    options = parser.parse_args()

    from encodery.base import machine

    rng = random.Random(0)
    train = [row for row in entities(options.data, "train") if row["spans"]]
    train = rng.sample(train, min(options.rows, len(train)))
    dev, test = (rng.sample(entities(options.data, split), n) for split, n in (("dev", 150), ("test", options.test)))
    many = questions(options.data, rng)[: options.rows + 150]
    write_splits(options.work / "many types", train=many[150:], dev=many[:150])
    write_splits(options.work / "all types", train=train, dev=dev)
    for pair in PAIRS:
        write_splits(
            options.work / f"without {' and '.join(pair)}", train=remove_types(train, pair), dev=remove_types(dev, pair)
        )

    results: dict[str, list[float]] = {}

    def record(name: str, types: Sequence[str], spans: list[Spans]) -> None:
        truth = [{(s["start"], s["end"], s["label"]) for s in row["spans"] if s["label"] in types} for row in test]
        results.setdefault(name, []).append(f1(truth, spans))
        print(f"{name}: {results[name][-1]:.4f}", flush=True)

    for seed in options.seeds:
        for pair in PAIRS:
            label = " and ".join(pair)
            run = finetune(options.work / f"without {label}", options.work / "run", seed, options)
            spans = predict(run, test, pair)
            record(f"{label}: some types", pair, spans)
            record(f"{label}: some types, names exchanged", pair, exchange_names(spans, pair))
        for kind in ("all types", "many types"):
            run = finetune(options.work / kind, options.work / "run", seed, options)
            for types in (*PAIRS, NAMES):
                label = "all six" if types is NAMES else " and ".join(types)
                spans = predict(run, test, types)
                record(f"{label}: {kind}", types, spans)
                record(f"{label}: {kind}, names exchanged", types, exchange_names(spans, types))
        for types in (*PAIRS, NAMES):
            label = "all six" if types is NAMES else " and ".join(types)
            record(f"{label}: capitals", types, capitalised_runs(test, types, seed))
    spread = {name: statistics.stdev(values) if len(values) > 1 else 0.0 for name, values in results.items()}
    table = {
        "figure": "f1 of exact spans and types",
        "settings": {
            "rows": options.rows,
            "test": options.test,
            "epochs": options.epochs,
            "seeds": options.seeds,
            "all": SETTINGS,
            "names of many types": len({name for row in many[150:] for name in row["types"]}),
        },
        "machine": machine.describe(),
        "runs": results,
        "summary": {name: {"mean": statistics.mean(values), "sd": spread[name]} for name, values in results.items()},
    }
    options.out.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
