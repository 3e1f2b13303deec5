"""Muon against a tuned AdamW at equal wall time: three rates each, the best of them again with three seeds or more.

    python bench/optim.py TOKENS [--recipe mini] [--seconds 300] [--seeds 1 2 3] [--sides adamw muon]

First every side runs once at each of its rates (seed 0, which is not used again), then the best rate of each runs with
every seed, the sides in turns. Reported is the held-out loss of fixed masks: mean, range, and the difference from the
first side seed by seed. A best rate at the edge of its three is said to be so: the grid should then be moved (--rates).
Nothing but the optimiser and its rate differs; time is that of the clock, so an optimiser pays for its own arithmetic.
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
    """One run and its figures."""
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
        f"{side:14s} rate {rate:<7g} seed {seed}  loss {results['heldout_loss']:.4f}  {results['tokens']:,} tokens",
        flush=True,
    )
    return results


def tuned(options: argparse.Namespace, side: str) -> dict[str, Any]:
    """The runs of every rate of a side, and the best."""
    rates = tuple(sorted(options.rates or SIDES[side][1]))
    runs = [train(options, side, rate, 0) for rate in rates]
    best = min(runs, key=lambda run: run["heldout_loss"])["rate"]
    return {"rates": rates, "best": best, "at_the_edge": best in (rates[0], rates[-1]) and len(rates) > 1, "runs": runs}


def compared(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Mean and range of each side, and its difference from the first, seed by seed."""
    first = next(iter(runs))
    summary = {}
    for side, results in runs.items():
        losses = [run["heldout_loss"] for run in results]
        apart = [mine - run["heldout_loss"] for mine, run in zip(losses, runs[first], strict=True)]
        summary[side] = {
            "heldout_loss": statistics.mean(losses),
            "range": [min(losses), max(losses)],
            f"minus_{first}": statistics.mean(apart),
            f"minus_{first}_by_seed": apart,
            "tokens_per_s": statistics.median(run["tokens_per_s"] for run in results),
        }
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("--recipe", default="mini")
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=["adamw", "muon"])
    parser.add_argument("--rates", type=float, nargs="+", help="for every side, in place of its own")
    parser.add_argument("--settings", nargs="*", default=[], help="path=value, for every run")
    parser.add_argument("--work", type=Path, default=Path("runs/bench_optim"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "optim.json")
    options = parser.parse_args()

    from encodery.base import machine

    tuning = {side: tuned(options, side) for side in options.sides}
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in options.sides}
    for seed in options.seeds:
        for side in options.sides:
            runs[side].append(train(options, side, tuning[side]["best"], seed))
    summary = compared(runs)
    queries = {
        "recipe": options.recipe,
        "seconds": options.seconds,
        "seeds": options.seeds,
        "settings": options.settings,
    }
    result = {"machine": machine.describe(), **queries, "tuning": tuning, "summary": summary, "runs": runs}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for side, row in summary.items():
        edge = ", the edge of its rates" if tuning[side]["at_the_edge"] else ""
        low, high = row["range"]
        print(
            f"{side:14s} loss {row['heldout_loss']:.4f} ({low:.4f} to {high:.4f}), "
            f"{row[f'minus_{options.sides[0]}']:+.4f} against {options.sides[0]}, rate {tuning[side]['best']:g}{edge}"
        )


if __name__ == "__main__":
    main()
