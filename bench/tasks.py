"""Fine-tuning on labelled sets: ours, our pre-training against random weights, and the stock trainer, several seeds.

    python bench/tasks.py --data DIR --own RUN --pretrained FOLDER [--sets movies ...] [--rows 1000] [--seeds 0 1 2]

Systems, on the same rows, each judged on the same test rows by the same figure (`tasks_judge.py`):
`tf-idf` (one and two words, and logistic or ridge regression), `own` (a run of `encodery pretrain`, fine-tuned with
encodery's defaults), `random` (its architecture and tokenizer with random weights, the same), `pretrained` (a folder
with a stock BERT-layout encoder, fine-tuned by encodery for three epochs) and `trainer` (the same folder, for as many,
by `transformers.Trainer` with its defaults, or by sentence-transformers' for an embedding model). The two trainers take
turns, and their samples per second are compared in pairs. Mean and standard deviation over the seeds; the ratio is a
median. Sets measured before stay in the results file, and so do the other systems of a set where only some are asked
for (--systems); the ratio is then that of before.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks_data import SETS, Labelled, cut, read_split
from tasks_judge import cosines, judged

HERE = Path(__file__).resolve().parent
EPOCHS = 3
SYSTEMS = ("own", "random", "pretrained", "trainer")


def encodery(*arguments: str | Path) -> None:
    """Run one encodery command as a user would."""
    subprocess.run([sys.executable, "-m", "encodery", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def tf_idf(folder: Path, labelled: Labelled) -> dict[str, float] | None:
    """Words and pairs of words, and a linear model; none for tagging and for vectors."""
    if labelled.task in ("tag", "embed"):
        return None
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline

    train, test = (read_split(folder, split) for split in ("train", "test"))
    last = Ridge() if labelled.task == "regress" else LogisticRegression(C=10, max_iter=1000)
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), last)
    texts = [[" ".join(str(row[name]) for name in labelled.texts) for row in rows] for rows in (train, test)]
    model.fit(texts[0], [row[labelled.label] for row in train])
    return {"quality": judged(labelled, test, list(model.predict(texts[1])))}


def ours(folder: Path, labelled: Labelled, model: Path, out: Path, seed: int, *settings: str) -> dict[str, float]:
    """`encodery finetune` and `encodery predict`, with their defaults but for `settings`."""
    shutil.rmtree(out, ignore_errors=True)
    encodery("finetune", labelled.task, folder, "--model", model, "--out", out, f"train.seed={seed}", *settings)
    rows, metrics = read_split(folder, "test"), json.loads((out / "metrics.json").read_text())
    seen = metrics["epoch"] * len(read_split(folder, "train"))
    return {
        "quality": judged(labelled, rows, predictions(folder, labelled, out, rows)),
        "samples_per_s": seen * metrics["tokens_per_s"] / metrics["tokens"],
        "seconds": metrics["seconds"],
    }


def predictions(folder: Path, labelled: Labelled, run: Path, rows: list[dict[str, Any]]) -> list[Any]:
    """What a run says of the test rows; of an embedding model the cosines of their two texts."""
    if labelled.task == "embed":
        from encodery.encoders.dense import DenseEncoder
        from encodery.model.load import load_model

        embedder = DenseEncoder.from_loaded(load_model(run))
        one, other = (embedder.encode([row[name] for row in rows]).vectors for name in labelled.texts)
        return cosines(one, other)
    encodery("predict", folder / "test.jsonl", "--model", run, "--out", run / "predicted.jsonl")
    lines = (run / "predicted.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["prediction"] for line in lines]


def peer(folder: Path, name: str, model: Path, seed: int) -> dict[str, float]:
    """`transformers.Trainer` in a process of its own."""
    command = [sys.executable, HERE / "tasks_peer.py", "--data", folder, "--set", name, "--model", model]
    command += ["--seed", seed, "--epochs", EPOCHS]
    done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
    results: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return results


def random_weights(model: Path, out: Path, seed: int) -> Path:
    """A model of the same architecture and tokenizer that has learned nothing."""
    from encodery.model.load import load_model, save_model
    from encodery.model.network import build_model

    loaded = load_model(model)
    save_model(out, build_model(loaded.model.settings, seed), loaded.tokenizer_path, overwrite=True)
    return out


def compare(name: str, options: argparse.Namespace, held: dict[str, Any]) -> dict[str, Any]:
    """The systems asked for on one set, seed by seed, in turns; the others as they were `held`."""
    labelled, folder = SETS[name], options.work / name
    counts = cut(options.data, labelled, folder, {"train": options.rows, "dev": 500, "test": options.test_rows})
    runs, epochs = options.work / "runs", f"epochs={EPOCHS}"
    systems: dict[str, Callable[[int], dict[str, float] | None]] = {
        "own": lambda seed: ours(folder, labelled, options.own, runs / f"{name}-own-{seed}", seed),
        "random": lambda seed: ours(
            folder,
            labelled,
            random_weights(options.own, runs / f"random-{seed}", seed),
            runs / f"{name}-r-{seed}",
            seed,
        ),
        "pretrained": lambda seed: ours(folder, labelled, options.pretrained, runs / f"{name}-p-{seed}", seed, epochs),
        "trainer": lambda seed: peer(folder, name, options.pretrained, seed),
    }
    systems = {system: run for system, run in systems.items() if system in options.systems}
    results: dict[str, list[dict[str, float]]] = {system: [] for system in systems}
    for seed in options.seeds:
        for system, run in systems.items():
            metrics = run(seed)
            if metrics is not None:
                results[system].append(metrics)
                print(f"{name} {system} seed {seed}: {metrics}", flush=True)
    baseline = tf_idf(folder, labelled)
    if baseline is not None:
        results["tf-idf"] = [baseline]
        print(f"{name} tf-idf: {baseline}", flush=True)
    results = held.get("runs", {}) | results
    ratio = held["summary"]["speedup"] if held and len(systems) < len(SYSTEMS) else speedup(results)
    reported = {**summary(results), "speedup": ratio}
    return {"set": name, "metric": labelled.metric, "rows": counts, "runs": results, "summary": reported}


def speedup(results: dict[str, list[dict[str, float]]]) -> float | None:
    """Samples per second of ours against the stock trainer's, the median of pairs; None where one was never asked."""
    if not {"pretrained", "trainer"} <= set(results):
        return None
    pairs = zip(results["pretrained"], results["trainer"], strict=True)
    return statistics.median(a["samples_per_s"] / b["samples_per_s"] for a, b in pairs)


def summary(results: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Mean and standard deviation of quality."""
    table: dict[str, Any] = {}
    for system, runs in results.items():
        values = [run["quality"] for run in runs]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        table[system] = {"mean": statistics.mean(values), "sd": spread}
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--own", type=Path, required=True)
    parser.add_argument("--pretrained", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--test-rows", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/bench_tasks"))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "tasks.json")
    options = parser.parse_args()

    from encodery.base import machine

    settings = {key: str(value) for key, value in vars(options).items() if key in ("rows", "test_rows", "seeds")}
    held = json.loads(options.out.read_text())["sets"] if options.out.is_file() else []
    sets = {entry["set"]: entry for entry in held}
    for name in options.sets:
        sets[name] = {
            **compare(name, options, sets.get(name, {})),
            "machine": machine.describe(),
            "settings": {**settings, "epochs": EPOCHS},
        }
        options.out.write_text(json.dumps({"sets": list(sets.values())}, indent=1) + "\n")
        print(name, sets[name]["summary"], flush=True)


if __name__ == "__main__":
    main()
