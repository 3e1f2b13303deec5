"""Compare recipes, schedules, positions and execution settings with the default at equal budget, one change per row.

    python bench/recipes.py TOKENS [path=value ...] [--group papers] [--seconds 60 | --budget 600ktok] [--seeds 0 1]
        [--rows bert ...]

Each run is `encodery pretrain` at the tiny shape (2 × 128 unless the row changes the shape; the groups `layered` and
`recompute`: 4 × 256). The held-out loss uses fixed masks at 15 %, so that rows with other mask rates compare. The rows
alternate, seed by seed. The results are the means, the spread (half the range) and the peak memory of the process. At
this budget a row shows whether a mechanism helps small models early in training; it says nothing about the scale of the
papers.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

SHAPE = ("model.depth=2", "model.width=128", "model.heads=2", "model.intermediate_size=512", "model.max_length=128")
LENGTH = ("feed.max_length=128", "train.evals=2")
PAPERS: dict[str, tuple[str, tuple[str, ...]]] = {
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
SCHEDULES: dict[str, tuple[str, tuple[str, ...]]] = {
    "tiny (default)": ("tiny", ()),
    "wsd": ("tiny", ("train.lr_schedule=wsd(warmup=5%, decay=20%)",)),
    "cosine": ("tiny", ("train.lr_schedule=cosine(warmup=5%)",)),
    "batch 1,024": ("tiny", ("train.batch_tokens=1024",)),
    "batch 4,096": ("tiny", ("train.batch_tokens=4096",)),
    "batch 1,024 -> 4,096": ("tiny", ("train.batch_tokens=1024 -> 4096 linear",)),
    "lengths 32, 64, 128": ("tiny", ("train.seq_len_schedule=32 @ 30%; 64 @ 30%; 128",)),
    "mask rate 0.30": ("tiny", ("objective.corruption.rate=0.30",)),
    "mask rate 0.30 -> 0.15": ("tiny", ("objective.corruption.rate=0.30 -> 0.15 linear",)),
}
LEARNED_POSITIONS = ("model.positions.is=learned",)
DATA_INITS: dict[str, tuple[str, tuple[str, ...]]] = {
    "bigrams (default)": ("tiny", ("data_init.is=bigrams",)),
    "cooccurrence": ("tiny", ("data_init.is=cooccurrence",)),
    "random": ("tiny", ("data_init.is=random",)),
    "bigrams, learned positions": ("tiny", ("data_init.is=bigrams", *LEARNED_POSITIONS)),
    "cooccurrence, learned positions": ("tiny", ("data_init.is=cooccurrence", *LEARNED_POSITIONS)),
    "random, learned positions": ("tiny", ("data_init.is=random", *LEARNED_POSITIONS)),
}
POSITIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "rotary (default)": ("tiny", ()),
    "learned": ("tiny", LEARNED_POSITIONS),
    "relative_bias": ("tiny", ("model.positions.is=relative_bias",)),
    "learned + relative_bias": ("tiny", ("model.positions.is=sum", 'model.positions.of=["learned", "relative_bias"]')),
    "disentangled": ("tiny", ("model.positions.is=disentangled", "model.positions.norm=layer")),
}
LAYERWISE: dict[str, tuple[str, tuple[str, ...]]] = {
    "one micro-batch after the other": ("mini", ()),
    "all through a layer together": ("mini", ("train.layerwise_offload=true",)),
}
CHECKPOINTING: dict[str, tuple[str, tuple[str, ...]]] = {
    name: ("mini", (f"train.activation_checkpointing={name}",)) for name in ("nothing", "attention", "ffn", "block")
}
MINI_SHAPE = ("model.depth=4", "model.width=256", "model.heads=4")
LONG_SEQUENCES = (
    "model.max_length=512",
    "feed.max_length=512",
    "train.batch_tokens=16384",
    "train.micro_batch_tokens=16384",
)
# The rows of a group, the settings of all rows besides shape and length, and the results file.
GROUPS = {
    "papers": (PAPERS, ("train.batch_tokens=4096", "optim.lr=2e-3", "data_init.is=random"), "recipes.json"),
    "schedules": (SCHEDULES, ("model.intermediate_size=256",), "schedules.json"),
    "beginnings": (DATA_INITS, ("model.intermediate_size=256",), "beginnings.json"),
    "positions": (POSITIONS, ("model.intermediate_size=256", "data_init.is=cooccurrence"), "positions.json"),
    "layered": (LAYERWISE, (*MINI_SHAPE, "train.micro_batch_tokens=512"), "layered.json"),
    "recompute": (CHECKPOINTING, (*MINI_SHAPE, *LONG_SEQUENCES), "recompute.json"),
}


def train(options: argparse.Namespace, out: Path, recipe: str, settings: tuple[str, ...], seed: int) -> dict[str, Any]:
    """Run `encodery pretrain` once and return its metrics."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "encodery", "pretrain", str(options.tokens), "--recipe", recipe, "--out", str(out)]
    command += [
        "--budget",
        options.budget or f"{options.seconds}s",
        *SHAPE,
        *LENGTH,
        *GROUPS[options.group][1],
        f"train.seed={seed}",
    ]
    command += [*settings, *options.settings]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    metrics = json.loads((out / "metrics.json").read_text())
    keep = ("heldout_loss", "heldout_accuracy", "bits_per_byte", "tokens", "tokens_per_s", "parameters", "precision")
    return {**{key: metrics[key] for key in keep if key in metrics}, "peak_bytes": usage.ru_maxrss * 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokens", type=Path, help="A token folder.")
    parser.add_argument("settings", nargs="*", help="Settings of all rows, each written path=value.")
    parser.add_argument("--group", choices=GROUPS, default="papers", help="The group of rows to run.")
    parser.add_argument("--seconds", type=int, default=60, help="The training time of a run.")
    parser.add_argument("--budget", help="The budget of a run in the place of a time, such as 600ktok.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="The seeds; each row runs once per seed.")
    parser.add_argument("--rows", nargs="+", help="The rows of the group to run [default: all].")
    parser.add_argument("--work", type=Path, default=Path("runs/bench_recipes"), help="The folder of the runs.")
    parser.add_argument("--out", type=Path, help="The JSON file to write [default: the group's file in results].")
    options = parser.parse_intermixed_args()
    rows, common, file = GROUPS[options.group]
    names = options.rows or list(rows)
    if unknown := set(names) - set(rows):
        parser.error(f"--rows: group {options.group} has no row {', '.join(unknown)}; it has {', '.join(rows)}")

    from encodery.base import machine

    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for seed in options.seeds:
        for number, name in enumerate(names):
            metrics = train(options, options.work / f"{options.group}-{number}-{seed}", *rows[name], seed)
            results[name].append(metrics)
            print(f"seed {seed}  {name:32s} {metrics}", flush=True)
    summary = {}
    for name, runs in results.items():
        losses = [run["heldout_loss"] for run in runs]
        summary[name] = {
            "heldout_loss": statistics.mean(losses),
            "spread": (max(losses) - min(losses)) / 2,
            "tokens_per_s": statistics.median(run["tokens_per_s"] for run in runs),
            "peak_bytes": statistics.median(run["peak_bytes"] for run in runs),
        }
    result = {
        "machine": machine.describe(),
        "seconds": None if options.budget else options.seconds,
        "budget": options.budget or f"{options.seconds}s",
        "seeds": options.seeds,
        "shape": SHAPE,
        "common": [*LENGTH, *common, *options.settings],
        "rows": {name: list(rows[name][1]) for name in names},
        "summary": summary,
        "runs": results,
    }
    out = options.out or Path(__file__).parent / "results" / file
    out.write_text(json.dumps(result, indent=1) + "\n")
    for name, row in sorted(summary.items(), key=lambda item: item[1]["heldout_loss"]):
        speed, peak = f"{row['tokens_per_s']:,.0f}", f"{row['peak_bytes'] / 1e6:,.0f}"
        print(f"{name:32s} loss {row['heldout_loss']:.3f} ± {row['spread']:.3f}  {speed} tokens/s, {peak} MB")


if __name__ == "__main__":
    main()
