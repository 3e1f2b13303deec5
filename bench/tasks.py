"""Compare fine-tuning on labelled data: our pre-training, random weights, stock weights, and the stock trainer.

    python bench/tasks.py --data DIR --own RUN --pretrained FOLDER [--sets movies ...] [--rows 1000] [--seeds 0 1 2]

All systems use the same rows and are evaluated on the same test rows with the same metric (`tasks_judge.py`): `tf-idf`
(unigrams and bigrams with logistic or ridge regression), `own` (a run of `encodery pretrain`, fine-tuned with the
defaults of encodery), `random` (its architecture and tokenizer with random weights, fine-tuned likewise), `pretrained`
(a folder with a stock encoder in BERT's layout, fine-tuned by encodery for three epochs) and `trainer` (the same folder
and epochs with `transformers.Trainer` and its defaults, or that of sentence-transformers for an embedding model).
`pretrained` and `trainer` alternate, and their samples per second are compared in pairs. The results are the mean and
standard deviation over the seeds; the ratio is a median. Earlier data sets stay in the results file, and so do the
other systems of a set if `--systems` selects some; the ratio is then the earlier one.
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

from tasks_data import SETS, Labelled, read_split, write_splits
from tasks_judge import cosines, score

HERE = Path(__file__).resolve().parent
EPOCHS = 3
SYSTEMS = ("own", "random", "pretrained", "trainer")


def encodery(*arguments: str | Path) -> None:
    """Run one encodery command as a user would."""
    subprocess.run([sys.executable, "-m", "encodery", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def tf_idf(folder: Path, labelled: Labelled) -> dict[str, float] | None:
    """Evaluate TF-IDF of words and word pairs with a linear model; None for tagging and embeddings."""
    if labelled.task in ("tag", "embed"):
        return None
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline

    train, test = (read_split(folder, split) for split in ("train", "test"))
    estimator = Ridge() if labelled.task == "regress" else LogisticRegression(C=10, max_iter=1000)
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), estimator)
    texts = [[" ".join(str(row[name]) for name in labelled.texts) for row in rows] for rows in (train, test)]
    model.fit(texts[0], [row[labelled.label] for row in train])
    return {"quality": score(labelled, test, list(model.predict(texts[1])))}


def ours(folder: Path, labelled: Labelled, model: Path, out: Path, seed: int, *settings: str) -> dict[str, float]:
    """Run `encodery finetune` and `encodery predict` with their defaults and `settings`."""
    shutil.rmtree(out, ignore_errors=True)
    encodery("finetune", labelled.task, folder, "--model", model, "--out", out, f"train.seed={seed}", *settings)
    rows, metrics = read_split(folder, "test"), json.loads((out / "metrics.json").read_text())
    num_samples = metrics["epoch"] * len(read_split(folder, "train"))
    return {
        "quality": score(labelled, rows, predictions(folder, labelled, out, rows)),
        "samples_per_s": num_samples * metrics["tokens_per_s"] / metrics["tokens"],
        "seconds": metrics["seconds"],
    }


def predictions(folder: Path, labelled: Labelled, run: Path, rows: list[dict[str, Any]]) -> list[Any]:
    """Return the predictions of a run for the test rows; for an embedding model the cosines of their two texts."""
    if labelled.task == "embed":
        from encodery.encoders.dense import DenseEncoder
        from encodery.model.load import load_model

        embedder = DenseEncoder.from_loaded(load_model(run))
        left, right = (embedder.encode([row[name] for row in rows]).vectors for name in labelled.texts)
        return cosines(left, right)
    encodery("predict", folder / "test.jsonl", "--model", run, "--out", run / "predicted.jsonl")
    lines = (run / "predicted.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["prediction"] for line in lines]


def peer(folder: Path, name: str, model: Path, seed: int) -> dict[str, float]:
    """Run `transformers.Trainer` in its own process."""
    command = [sys.executable, HERE / "tasks_peer.py", "--data", folder, "--set", name, "--model", model]
    command += ["--seed", seed, "--epochs", EPOCHS]
    done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
    results: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return results


def random_weights(model: Path, out: Path, seed: int) -> Path:
    """Write a model of the same architecture and tokenizer with random weights."""
    from encodery.model.load import load_model, save_model
    from encodery.model.network import build_model

    loaded = load_model(model)
    save_model(out, build_model(loaded.model.settings, seed), loaded.tokenizer_path, overwrite=True)
    return out


def compare(name: str, options: argparse.Namespace, earlier: dict[str, Any]) -> dict[str, Any]:
    """Run the chosen systems on one data set, seed by seed, alternately; the others are taken from `earlier`."""
    labelled, folder = SETS[name], options.work / name
    counts = write_splits(
        options.data, labelled, folder, {"train": options.rows, "dev": 500, "test": options.test_rows}
    )
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
    results = earlier.get("runs", {}) | results
    ratio = earlier["summary"]["speedup"] if earlier and len(systems) < len(SYSTEMS) else speedup(results)
    reported = {**summary(results), "speedup": ratio}
    return {"set": name, "metric": labelled.metric, "rows": counts, "runs": results, "summary": reported}


def speedup(results: dict[str, list[dict[str, float]]]) -> float | None:
    """Return the median over the pairs of our samples per second divided by the stock trainer's; None without pairs."""
    if not {"pretrained", "trainer"} <= set(results):
        return None
    pairs = zip(results["pretrained"], results["trainer"], strict=True)
    return statistics.median(a["samples_per_s"] / b["samples_per_s"] for a, b in pairs)


def summary(results: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Return the mean and standard deviation of the quality of each system."""
    table: dict[str, Any] = {}
    for system, runs in results.items():
        values = [run["quality"] for run in runs]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        table[system] = {"mean": statistics.mean(values), "sd": spread}
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="The folder of the data sets.")
    parser.add_argument("--own", type=Path, required=True, help="A run of `encodery pretrain`.")
    parser.add_argument(
        "--pretrained", type=Path, required=True, help="The folder of a stock encoder in BERT's layout."
    )
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), help="The data sets.")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), help="The systems to run.")
    parser.add_argument("--rows", type=int, default=1000, help="The maximum number of training rows.")
    parser.add_argument("--test-rows", type=int, default=1000, help="The maximum number of test rows.")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="The seeds; each system runs once per seed."
    )
    parser.add_argument(
        "--work", type=Path, default=Path("runs/bench_tasks"), help="The folder of the data and the runs."
    )
    parser.add_argument("--out", type=Path, default=HERE / "results" / "tasks.json", help="The JSON file to update.")
    options = parser.parse_args()

    from encodery.base import machine

    settings = {key: str(value) for key, value in vars(options).items() if key in ("rows", "test_rows", "seeds")}
    earlier = json.loads(options.out.read_text())["sets"] if options.out.is_file() else []
    sets = {entry["set"]: entry for entry in earlier}
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
