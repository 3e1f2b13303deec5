"""Compare Muon with AdamW at equal wall time, each at the best of three learning rates.

    python bench/optim.py TOKENS [--recipe mini] [--seconds 300] [--seeds 1 2 3] [--sides adamw muon]

First every optimiser runs once at each of its learning rates (seed 0, which is not used again). Then each runs with
every seed at its best learning rate, alternately. The results are the held-out losses with fixed masks: mean, range,
and the difference from the first optimiser, seed by seed. A best learning rate at the edge of its grid is reported; the
grid should then be moved (`--rates`). Only the optimiser and its learning rate differ. Runs end by wall time, so the
time of the optimiser's own arithmetic counts.
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

SIDES: dict[str, tuple[tuple[str, ...], tuple[float, ...]]] = {
    "adamw": (("optim.is=adamw",), (1e-3, 2e-3, 4e-3)),
    "muon": (("optim.is=muon",), (1e-3, 2e-3, 4e-3)),
    "stable_adamw": (("optim.is=stable_adamw",), (1e-3, 2e-3, 4e-3)),
}
KEPT = ("heldout_loss", "heldout_accuracy", "bits_per_byte", "tokens", "steps", "seconds", "tokens_per_s", "precision")


def train(options: argparse.Namespace, side: str, rate: float, seed: int) -> dict[str, Any]:
    """Run `encodery pretrain` once and return its metrics."""
    out = options.work / f"{side}-{rate:g}-{seed}"
    shutil.rmtree(out, ignore_errors=True)
    command = [
        sys.executable,
        "-m",
        "encodery",
        "pretrain",
        str(options.tokens),
        "--recipe",
        options.recipe,
        "--out",
        str(out),
    ]
    command += ["--budget", f"{options.seconds}s", "train.evals=0", f"train.seed={seed}", f"optim.lr={rate}"]
    command += [*SIDES[side][0], *options.settings]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    metrics = json.loads((out / "metrics.json").read_text())
    shutil.rmtree(out)
    results = {"side": side, "rate": rate, "seed": seed, **{key: metrics[key] for key in KEPT if key in metrics}}
    print(
        f"{side:14s} lr {rate:<7g} seed {seed}  loss {results['heldout_loss']:.4f}  {results['tokens']:,} tokens",
        flush=True,
    )
    return results


def tune_lr(options: argparse.Namespace, side: str) -> dict[str, Any]:
    """Run an optimiser once at each learning rate; return the runs and the best learning rate."""
    rates = tuple(sorted(options.rates or SIDES[side][1]))
    runs = [train(options, side, rate, 0) for rate in rates]
    best = min(runs, key=lambda run: run["heldout_loss"])["rate"]
    return {"rates": rates, "best": best, "at_the_edge": best in (rates[0], rates[-1]) and len(rates) > 1, "runs": runs}


def summarise(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return the mean and range of each optimiser, and its difference from the first, seed by seed."""
    first = next(iter(runs))
    summary = {}
    for side, results in runs.items():
        losses = [run["heldout_loss"] for run in results]
        differences = [loss - run["heldout_loss"] for loss, run in zip(losses, runs[first], strict=True)]
        summary[side] = {
            "heldout_loss": statistics.mean(losses),
            "range": [min(losses), max(losses)],
            f"minus_{first}": statistics.mean(differences),
            f"minus_{first}_by_seed": differences,
            "tokens_per_s": statistics.median(run["tokens_per_s"] for run in results),
        }
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokens", type=Path, help="A token folder.")
    parser.add_argument("--recipe", default="mini", help="The recipe of every run.")
    parser.add_argument("--seconds", type=int, default=300, help="The training time of a run.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="The seeds of the comparison.")
    parser.add_argument(
        "--sides",
        nargs="+",
        choices=SIDES,
        default=["adamw", "muon"],
        help="The optimisers; the first is the baseline.",
    )
    parser.add_argument(
        "--rates", type=float, nargs="+", help="The learning rates of every optimiser [default: a grid of its own]."
    )
    parser.add_argument("--settings", nargs="*", default=[], help="Settings of every run, each written path=value.")
    parser.add_argument("--work", type=Path, default=Path("runs/bench_optim"), help="The folder of the runs.")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "optim.json", help="The JSON file to write."
    )
    options = parser.parse_args()

    from encodery.base import machine

    tuning = {side: tune_lr(options, side) for side in options.sides}
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in options.sides}
    for seed in options.seeds:
        for side in options.sides:
            runs[side].append(train(options, side, tuning[side]["best"], seed))
    summary = summarise(runs)
    inputs = {
        "recipe": options.recipe,
        "seconds": options.seconds,
        "seeds": options.seeds,
        "settings": options.settings,
    }
    result = {"machine": machine.describe(), **inputs, "tuning": tuning, "summary": summary, "runs": runs}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for side, row in summary.items():
        edge = ", at the edge of its grid" if tuning[side]["at_the_edge"] else ""
        low, high = row["range"]
        print(
            f"{side:14s} loss {row['heldout_loss']:.4f} ({low:.4f} to {high:.4f}), "
            f"{row[f'minus_{options.sides[0]}']:+.4f} against {options.sides[0]}, lr {tuning[side]['best']:g}{edge}"
        )


if __name__ == "__main__":
    main()
