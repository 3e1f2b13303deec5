"""Compress a fine-tuned classifier by each method, beside what a user would do without it.

    python bench/compress.py --data DIR --pretrained FOLDER --work DIR [--seeds 0 1]

The teacher is a pre-trained embedding model, fine-tuned on 210 short requests of 7 intents (SNIPS); the student has
every second of its layers. Each row is a command as a user would type it, with the steps, the batch and the learning
rate of the teacher's run. The metric is the accuracy on the test rows. Runs that are in `--work` are not repeated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from encodery.base import machine
from tasks_data import SETS, write_splits

HERE = Path(__file__).resolve().parent
SIZES = {"train": 210, "dev": 70, "test": 400}
TUNING = ("finetune", "classify", "snips", "epochs=4", "train.precision=fp32", "--model")
STUDENTS = {
    "student": ("select_layers",),
    "low_rank": ("low_rank", "rank=96"),
    "narrow": ("prune", "importance=magnitude", "compare=layer", "keep_heads=1", "keep_intermediate=0.3125"),
}
ROWS = {
    "student, labels only": (*TUNING, "student"),
    "student, logits": ("compress", "teacher", "--model", "student", "distill=logits"),
    "student, logits and hidden": ("compress", "teacher", "--model", "student", 'distill=["logits", "hidden"]'),
    "70 % zeros at once": (
        *("compress", "teacher", "prune.is=magnitude", "prune.sparsity=0.7"),
        *("prune.begin=0", "prune.end=0.001"),
    ),
    "70 % zeros, gradually": ("compress", "teacher", "prune.is=magnitude", "prune.sparsity=0.7", "prune.every=2"),
    "3 bits, rounded after training": (
        *("compress", "teacher", "quantize.is=fake", "quantize.bits=3"),
        *("--budget", "1steps", "optim.lr=1e-9"),
    ),
    "3 bits in training": ("compress", "teacher", "quantize.is=fake", "quantize.bits=3"),
    "rank 96, labels only": (*TUNING, "low_rank"),
    "rank 96, logits": ("compress", "teacher", "--model", "low_rank", "distill=logits"),
    "rank 96, logits and hidden": ("compress", "teacher", "--model", "low_rank", 'distill=["logits", "hidden"]'),
    "480 units, labels only": (*TUNING, "narrow"),
    "480 units, logits and hidden": ("compress", "teacher", "--model", "narrow", 'distill=["logits", "hidden"]'),
}
"""The feed-forward layers of rank 96 and of 480 units (of 1,536) have the same number of weights."""


def encodery(work: Path, *arguments: str) -> None:
    """Run one encodery command in the folder `work`."""
    subprocess.run([sys.executable, "-m", "encodery", *arguments], check=True, stdout=subprocess.DEVNULL, cwd=work)


def run(work: Path, row: str, seed: int) -> dict[str, Any]:
    """Run one row with one seed, unless it has been run; return its metrics."""
    out = f"{list(ROWS).index(row)}-{seed}"
    if not (work / out / "metrics.json").is_file():
        encodery(work, *ROWS[row], "--out", out, f"train.seed={seed}")
    metrics = json.loads((work / out / "metrics.json").read_text())
    print(f"{row}, seed {seed}: {metrics['test_accuracy']:.4f}", flush=True)
    measured = {name: metrics[name] for name in ("test_accuracy", "test_nll")}
    return {"seed": seed, **measured, "device": machine.describe()["device"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="The folder of the data sets.")
    parser.add_argument("--pretrained", type=Path, required=True, help="The folder of a pre-trained embedding model.")
    parser.add_argument("--work", type=Path, required=True, help="A folder for the runs.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="The seeds; each row runs once per seed.")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "compress.json", help="The results file.")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), metavar="ROW", help="Rows to run.")
    options = parser.parse_args()
    work, pretrained = options.work.resolve(), str(options.pretrained.resolve())
    sizes = write_splits(options.data, SETS["snips"], work / "snips", SIZES)
    if not (work / "teacher" / "metrics.json").is_file():
        encodery(work, *TUNING, pretrained, "--out", "teacher")
    for name, surgery in STUDENTS.items():
        if not (work / name).is_dir():
            encodery(work, "model", "edit", pretrained, "--out", name, "--surgery", *surgery)
    teacher = json.loads((work / "teacher" / "metrics.json").read_text())["test_accuracy"]
    earlier = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {}
    runs = {row: [run(work, row, seed) for seed in options.seeds] for row in options.rows}
    result = {
        "machine": earlier.get("machine", machine.describe()),
        "settings": {"rows": sizes, "student": "layers 0, 2, 4 of 6"},
        "runs": {**earlier.get("runs", {}), "teacher": [{"seed": 0, "test_accuracy": teacher}], **runs},
    }
    options.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
