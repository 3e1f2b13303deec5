"""Papers against the default at equal wall-clock budget: every row is one change, at the same size, on the same text.

    python bench/recipes.py TOKENS [--seconds 60] [--seeds 0 1] [--rows default bert ...]

Each run is `encodery pretrain` at the tiny shape (2 × 128 unless the row is about the shape), the held-out loss is that
of fixed masks at 15 %, so rows with other mask rates compare. Runs take turns over the seeds; means with the spread
(half the range) are reported. At this budget a row shows whether a mechanism helps early, on small models; it says
nothing of the scale the papers speak of.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

SHAPE = ("model.depth=2", "model.width=128", "model.heads=2", "model.inner=512", "model.max_length=128")
COMMON = ("feed.max_length=128", "train.batch_tokens=4096", "train.evals=2", "optim.lr=2e-3")
ROWS: dict[str, tuple[str, tuple[str, ...]]] = {
    "tiny (default)": ("tiny", ()),
    "bert": ("bert", ("model.dropout=0",)),
    "roberta": ("roberta", ("model.dropout=0",)),
    "mosaicbert": ("mosaicbert", ("model.dropout=0",)),
    "modernbert": ("modernbert", ()),
    "cramming": ("cramming", ("model.dropout=0",)),
    "academic_budget": ("academic_budget", ("model.dropout=0",)),
    "bert, mask rate 0.40": ("bert", ("model.dropout=0", "objective.corruption.rate=0.40")),
    "bert, mask rate 0.30 -> 0.15": ("bert", ("model.dropout=0", "objective.corruption.rate=0.30 -> 0.15 linear")),
}


def train(tokens: Path, out: Path, recipe: str, settings: tuple[str, ...], seconds: int, seed: int) -> dict[str, Any]:
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "encodery", "pretrain", recipe, str(tokens), "--out", str(out)]
    command += ["--budget", f"{seconds}s", *SHAPE, *COMMON, f"train.seed={seed}", *settings]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    figures = json.loads((out / "figures.json").read_text())
    keep = ("heldout_loss", "heldout_accuracy", "bits_per_byte", "tokens", "tokens_per_s", "parameters", "precision")
    return {key: figures[key] for key in keep if key in figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--work", type=Path, default=Path("runs/bench_recipes"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "recipes.json")
    options = parser.parse_args()

    from encodery.base import machine

    found: dict[str, list[dict[str, Any]]] = {name: [] for name in options.rows}
    for seed in options.seeds:
        for number, name in enumerate(options.rows):
            recipe, settings = ROWS[name]
            figures = train(options.tokens, options.work / f"{number}-{seed}", recipe, settings, options.seconds, seed)
            found[name].append(figures)
            print(f"seed {seed}  {name:32s} {figures}", flush=True)
    summary = {}
    for name, runs in found.items():
        losses = [run["heldout_loss"] for run in runs]
        summary[name] = {
            "heldout_loss": statistics.mean(losses),
            "spread": (max(losses) - min(losses)) / 2,
            "tokens_per_s": statistics.median(run["tokens_per_s"] for run in runs),
        }
    result = {
        "machine": machine.describe(),
        "seconds": options.seconds,
        "seeds": options.seeds,
        "shape": SHAPE,
        "common": COMMON,
        "rows": {name: list(ROWS[name][1]) for name in options.rows},
        "summary": summary,
        "runs": found,
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for name, row in sorted(summary.items(), key=lambda item: item[1]["heldout_loss"]):
        print(f"{name:32s} loss {row['heldout_loss']:.3f} ± {row['spread']:.3f}  {row['tokens_per_s']:,.0f} tokens/s")


if __name__ == "__main__":
    main()
