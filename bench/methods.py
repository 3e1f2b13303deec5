"""Compare methods of fine-tuning and embedding with the default at equal epochs, one change per row of a group.

    python bench/methods.py --data DIR --own RUN --pretrained FOLDER [--groups scores ...] [--seeds 0 1 2]

Each row is an encodery command as a user would type it, on the same examples of the same data set, for the same number
of epochs, evaluated on the same test examples by `encodery evaluate` (for classifiers by the test metrics of the run).
The results are means and standard deviations over the seeds. At this size a row shows whether a mechanism helps small
models on few examples; it says nothing about the scale of the papers. Earlier groups stay in the results file.
"""

from __future__ import annotations

import argparse
import json
import lzma
import random
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks_data import SETS, read_split, write_splits

HERE = Path(__file__).resolve().parent
FEW_EXAMPLES = 70  # Training examples of the group `few`: ten per class.
CLASSIFY = ("finetune", "classify", "movies")
EMBED = ("embed", "train")


@dataclass(frozen=True)
class Group:
    """One command and its variants.

    `command`: the arguments of every row. `start`: the model that training starts from, "own" or "pretrained".
    `settings`: of every row. `judge`: the suite of `encodery evaluate`, or "test" for the run's own test metric.
    `metric`: the name of the metric. `rows`: name -> arguments besides those of every row.
    """

    command: tuple[str, ...]
    start: str
    settings: tuple[str, ...]
    judge: str
    metric: str
    rows: dict[str, tuple[str, ...]]


INFONCE = ("loss.is=infonce",)
PARALLEL = ("adapt.parallel=true", 'adapt.sublayers=["ffn"]', "adapt.scale=4.0")
DISTILL_KL = ("loss.is=distill_kl", "loss.similarity=cosine", "loss.temperature=0.05")
TEACHER_SCALE = 20.0  # Factor of the teacher's cosines; the recipe `distil` has the same for the student's.
GROUPS = {
    "adapt": Group(
        CLASSIFY,
        "pretrained",
        ("epochs=3",),
        "test",
        "test_accuracy",
        {
            "everything (default)": (),
            "lora": ("adapt=lora",),
            "rslora": ("adapt.is=lora", "adapt.rank_stabilised=true"),
            "dora": ("adapt=dora",),
            "ia3": ("adapt=ia3",),
            "bitfit": ("adapt=bitfit",),
            "adapters": ("adapt=adapters",),
            "prompt": ("adapt=prompt",),
            "prompt, deep": ("adapt.is=prompt", "adapt.deep=true"),
            "binary_masks": ("adapt=binary_masks",),
            "top_layers, 2": ("adapt=top_layers",),
            "adapters, parallel": ("adapt.is=adapters", *PARALLEL),
        },
    ),
    "scores": Group(
        (*EMBED, "scored.jsonl"),
        "own",
        ("epochs=4",),
        "sts",
        "spearman",
        {
            "cosent (default)": ("loss=cosent",),
            "angle": ("loss=angle",),
            "cosine_mse": ("loss=cosine_mse",),
            "cosent, pooling cls": ("loss=cosent", "encoder.pooling=cls"),
            "cosent, pooling weighted": ("loss=cosent", "encoder.pooling=weighted"),
            "cosent, pooling layers": ("loss=cosent", "encoder.pooling=layers"),
            "cosent, pooling scalar_mix": ("loss=cosent", "encoder.pooling=scalar_mix"),
            "cosent, pooling attention": ("loss=cosent", "encoder.pooling=attention"),
            "cosent, pooling latent_attention": ("loss=cosent", "encoder.pooling=latent_attention"),
        },
    ),
    "few": Group(
        ("finetune",),
        "own",
        (),
        "test",
        "test_accuracy",
        {
            "classify (default)": ("classify", "snips"),
            "cloze": ("cloze", "snips"),
            "label_match": ("label_match", "snips"),
            "instruct": ("instruct", "snips"),
        },
    ),
    "matching": Group(
        ("finetune",),
        "own",
        (),
        "test",
        "test_spearman",
        {
            "words matched (default)": ("regress", "two"),
            "pooled states alone": ("regress", "two", "task.token_matching=false"),
        },
    ),
    "ranking": Group(
        ("finetune", "rank", "ranked.jsonl"),
        "own",
        ("epochs=2",),
        "test",
        "test_ndcg",
        {"words matched (default)": (), "pooled states alone": ("task.token_matching=false",)},
    ),
    "sentences": Group(
        EMBED,
        "own",
        (),
        "sts",
        "spearman",
        {
            "whitened (default)": ("lines.txt",),
            "whitened fully": ("lines.txt", 'encoder.postprocess=[{is="whiten",power=1.0},"normalise"]'),
            "simcse": ("lines.txt", "--recipe", "simcse", "epochs=1"),
            "simcse, pooling cls": ("lines.txt", "--recipe", "simcse", "epochs=1", "encoder.pooling=cls"),
            "mirror": ("lines.txt", "--recipe", "mirror", "epochs=1"),
            "tsdae": ("lines.txt", "--recipe", "tsdae", "epochs=1"),
            "discsent": ("documents.jsonl", "--recipe", "discsent", "epochs=1"),
        },
    ),
    "pairs": Group(
        (*EMBED, "pairs.jsonl"),
        "own",
        ("epochs=2", "batch=32"),
        "retrieval",
        "ndcg@10",
        {
            "infonce (default)": INFONCE,
            "symmetric, same side (GTE)": (*INFONCE, "loss.symmetric=true", "loss.same_role=true"),
            "bm25 negatives": (*INFONCE, "miner=bm25"),
            "hard negatives": (*INFONCE, "miner=hard"),
            "random negatives": (*INFONCE, "miner=random"),
            "gist, guided": ("loss=gist", "guide={pretrained}"),
            "spread out": ("loss.is=global_orthogonal", "loss.loss.is=infonce"),
            "matryoshka": ("--recipe", "matryoshka"),
            "matryoshka, first 64": ("--recipe", "matryoshka", 'encoder.postprocess=["truncate","normalise"]'),
            "infonce, first 64": (*INFONCE, 'encoder.postprocess=["truncate","normalise"]'),
            "matryoshka2d": ("--recipe", "matryoshka2d"),
            "splade": ("--recipe", "splade"),
            "colbert": ("--recipe", "colbert"),
        },
    ),
    "teacher": Group(
        EMBED,
        "own",
        ("epochs=4", "batch=32"),
        "retrieval",
        "ndcg@10",
        {
            "infonce (default)": ("mined.jsonl", *INFONCE),
            "margin_mse": ("teacher_scores.jsonl", "--recipe", "distil"),
            "distill_kl": ("teacher_scores.jsonl", *DISTILL_KL),
            "cosine_mse, each text alone (DSE)": ("single_texts.jsonl", "--recipe", "dse"),
            "infonce, no mined negatives": ("few_pairs.jsonl", *INFONCE),
            "the same, imitating a guide (LEALLA)": ("few_pairs.jsonl", "--recipe", "lealla", "guide={pretrained}"),
        },
    ),
}  # fmt: skip


def encodery(*arguments: str | Path) -> str:
    """Run one encodery command as a user would and return its standard output."""
    command = [sys.executable, "-m", "encodery", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def prepare(data: Path, work: Path, rows: int, teacher: Path) -> None:
    """Write the data sets in the layouts that encodery reads; `teacher` is an embedding model that scores pairs."""
    write_splits(data, SETS["movies"], work / "movies", {"train": rows, "dev": 300, "test": 1000})
    write_splits(data, SETS["stsb_embed"], work / "sts", {"train": 3 * rows, "dev": 300, "test": 1000})
    for split, file in (("train", "scored.jsonl"), ("test", "scored_test.jsonl")):
        scored = ({"a": row["a"], "b": row["b"], "score": row["score"]} for row in read_split(work / "sts", split))
        write_rows(work / file, scored)
    sentences = list(dict.fromkeys(row[side] for row in read_split(work / "sts", "train") for side in ("a", "b")))
    (work / "lines.txt").write_text("\n".join(sentences) + "\n", encoding="utf-8")
    rng = random.Random(0)
    pairs = list(read(data / "ir/squad/train.jsonl.xz"))
    chosen = rng.sample(pairs, 3 * rows)
    write_rows(work / "pairs.jsonl", ({"anchor": row["query"], "positive": row["positive"]} for row in chosen))
    documents = list(dict.fromkeys(row["positive"] for row in pairs))
    write_rows(work / "documents.jsonl", ({"text": text} for text in rng.sample(documents, 2 * rows)))
    beir(data / "ir/squad", work / "beir", rng)
    write_splits(data, SETS["snips"], work / "snips", {"train": FEW_EXAMPLES, "dev": FEW_EXAMPLES, "test": 400})
    write_splits(data, SETS["stsb"], work / "two", {"train": rows, "dev": 300, "test": 1000})
    write_teacher_data(work, rows, teacher)


def write_teacher_data(work: Path, rows: int, teacher: Path) -> None:
    """Write the data of the group `teacher`: the first pairs with BM25 negatives, scored by the teacher's cosines."""
    from encodery.encoders.dense import DenseEncoder
    from encodery.model.load import load_model

    lines = (work / "pairs.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (work / "few_pairs.jsonl").write_text("".join(lines[:rows]), encoding="utf-8")
    encodery(
        "embed",
        "mine-negatives",
        work / "few_pairs.jsonl",
        "num_negatives=2",
        "miner.is=bm25",
        "--out",
        work / "mined.jsonl",
    )
    mined = [json.loads(line) for line in (work / "mined.jsonl").read_text(encoding="utf-8").splitlines()]
    texts = list(dict.fromkeys(text for row in mined for text in (row["anchor"], row["positive"], *row["negatives"])))
    vectors = DenseEncoder.from_loaded(load_model(teacher)).encode(texts, truncate="right").vectors
    vector_of, results = dict(zip(texts, vectors, strict=True)), []
    for row in mined:
        scores = [
            TEACHER_SCALE * float(vector_of[row["anchor"]] @ vector_of[text])
            for text in (row["positive"], *row["negatives"])
        ]
        results.append({**row, "scores": scores})
    write_rows(work / "teacher_scores.jsonl", iter(results))
    write_rows(
        work / "ranked.jsonl",
        (
            {"query": row["anchor"], "text": text, "label": int(text == row["positive"])}
            for row in results
            for text in (row["positive"], *row["negatives"])
        ),
    )
    write_rows(
        work / "single_texts.jsonl",
        (
            {"a": row["anchor"], "b": text, "score": score / TEACHER_SCALE}
            for row in results
            for text, score in zip((row["positive"], *row["negatives"]), row["scores"], strict=True)
        ),
    )


def beir(source: Path, out: Path, rng: random.Random) -> None:
    """Write a BEIR folder of 200 questions, their passages and 1,000 other passages."""
    lines = (source / "qrels/test.tsv").read_text(encoding="utf-8").splitlines()[1:]
    judged = rng.sample([line.split("\t") for line in lines], 200)
    queries, relevant = {row[0] for row in judged}, {row[1] for row in judged}
    corpus = list(read(source / "corpus.jsonl.xz"))
    kept = relevant | set(rng.sample([row["_id"] for row in corpus], 1000))
    (out / "qrels").mkdir(parents=True, exist_ok=True)
    write_rows(out / "corpus.jsonl", (row for row in corpus if row["_id"] in kept))
    write_rows(out / "queries.jsonl", (row for row in read(source / "queries.jsonl.xz") if row["_id"] in queries))
    table = ["query-id\tcorpus-id\tscore", *("\t".join(row) for row in judged)]
    (out / "qrels" / "test.tsv").write_text("\n".join(table) + "\n", encoding="utf-8")


def read(file: Path) -> Iterator[dict[str, Any]]:
    with lzma.open(file, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def write_rows(file: Path, rows: Iterator[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def evaluate(group: Group, run: Path, work: Path) -> float:
    """Return the metric of a run, or of a model that was not trained."""
    if group.judge == "test":
        return float(json.loads((run / "metrics.json").read_text())[group.metric])
    data = work / ("scored_test.jsonl" if group.judge == "sts" else "beir")
    table = json.loads(encodery("evaluate", group.judge, data, "--model", run, "--json"))
    return float(table["rows"][0]["metrics"][group.metric])


def train_and_evaluate(group: Group, row: str, seed: int, options: argparse.Namespace) -> float:
    """Train one row with one seed and return its metric."""
    out, model = options.work / "run", getattr(options, group.start)
    shutil.rmtree(out, ignore_errors=True)
    row_arguments = [argument.replace("{pretrained}", str(options.pretrained)) for argument in group.rows[row]]
    command = [
        str(options.work / argument) if (options.work / argument).exists() else argument
        for argument in (*group.command, *row_arguments)
    ]
    encodery(*command, "--model", model, "--out", out, *group.settings, f"train.seed={seed}")
    return evaluate(group, out, options.work)


def run_group(name: str, options: argparse.Namespace) -> dict[str, list[float]]:
    """Run all rows of a group, seed by seed, and return their metrics."""
    group, results = GROUPS[name], dict[str, list[float]]()
    if group.judge != "test":
        results["untrained"] = [evaluate(group, getattr(options, group.start), options.work)]
        print(f"{name} untrained: {results['untrained'][0]:.4f}", flush=True)
    runs: list[tuple[int, str]] = [(seed, row) for seed in options.seeds for row in group.rows]
    for seed, row in runs:
        value = train_and_evaluate(group, row, seed, options)
        results.setdefault(row, []).append(value)
        print(f"{name} {row} seed {seed}: {value:.4f}", flush=True)
    return results


def summary(results: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Return the mean and standard deviation of each row."""
    sd = {row: statistics.stdev(values) if len(values) > 1 else 0.0 for row, values in results.items()}
    return {row: {"mean": statistics.mean(values), "sd": sd[row]} for row, values in results.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="The folder of the data sets.")
    parser.add_argument("--own", type=Path, required=True, help="A run of `encodery pretrain`.")
    parser.add_argument("--pretrained", type=Path, required=True, help="The folder of a pre-trained embedding model.")
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS), help="The groups to run.")
    parser.add_argument(
        "--rows", type=int, default=400, help="The number of labelled rows; three times as many pairs are used."
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="The seeds; each row runs once per seed."
    )
    parser.add_argument(
        "--work", type=Path, default=Path("runs/bench_methods"), help="The folder of the data and the runs."
    )
    parser.add_argument("--out", type=Path, default=HERE / "results" / "methods.json", help="The JSON file to update.")
    options = parser.parse_args()

    from encodery.base import machine

    prepare(options.data, options.work, options.rows, options.pretrained)
    groups = json.loads(options.out.read_text())["groups"] if options.out.is_file() else {}
    for name in options.groups:
        results = run_group(name, options)
        settings = {"rows": options.rows, "seeds": options.seeds, "all": GROUPS[name].settings}
        groups[name] = {
            "figure": GROUPS[name].metric,
            "settings": settings,
            "machine": machine.describe(),
            "runs": results,
            "summary": summary(results),
        }
        options.out.write_text(json.dumps({"groups": groups}, indent=1) + "\n")
        print(name, groups[name]["summary"], flush=True)


if __name__ == "__main__":
    main()
