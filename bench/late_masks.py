"""Compare [MASK] tokens that enter a late layer or only a decoder (3ML, MAE-LM) with plain masking at equal wall time.

    python bench/late_masks.py TOKENS [--recipe mini] [--seconds 300] [--settle 60] [--seeds 0 1 2] [--rows plain ...]

The training losses of these objectives do not compare, and their models have no plain head. So every row is trained for
`--seconds` with its objective and then for `--settle` seconds from its encoder, with a new head and plain masking at
15 %; the plain row does the same. The held-out loss after the second stage, with fixed masks, is compared. The results
also have the text tokens per second of the first stage and the operations per text token, which are computed from the
settings. The rows alternate, seed by seed.
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

RATE_50 = ("objective.corruption.is=token", "objective.corruption.rate=0.5")
RATE_15 = ("objective.corruption.is=token", "objective.corruption.rate=0.15")
PREDICT_15 = "objective.corruption.predict_rate=0.15"  # The cost of the head is proportional to the predicted tokens.
ROWS: dict[str, tuple[str, ...]] = {
    "plain": ("objective.is=mlm", *RATE_15),
    "plain, half hidden": ("objective.is=mlm", *RATE_50),
    "late, half hidden": ("objective.is=mask_late", *RATE_50),
    "late, half hidden, a sixth predicted": ("objective.is=mask_late", *RATE_50, PREDICT_15),
    "decoder": ("objective.is=masked_autoencoder", "objective.depth=1", *RATE_15),
    "decoder, half hidden": ("objective.is=masked_autoencoder", "objective.depth=1", *RATE_50),
    "decoder, half hidden, a sixth predicted": (
        "objective.is=masked_autoencoder",
        "objective.depth=1",
        *RATE_50,
        PREDICT_15,
    ),
}


def pretrain(options: argparse.Namespace, out: Path, seconds: int, *settings: str) -> dict[str, Any]:
    """Run `encodery pretrain` once and return its metrics."""
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
    command += ["--budget", f"{seconds}s", "train.evals=0", *settings, *options.settings]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    metrics: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return metrics


def flops(run: Path, length: float) -> float:
    """Return the operations per text token in the middle of a run, forward and backward."""
    from encodery.base.settings import decode
    from encodery.corrupt import Vocabulary
    from encodery.model.settings import ModelSettings
    from encodery.objectives import Objective
    from encodery.tokens.store import TokenStore

    recipe = json.loads((run / "recipe.json").read_text())
    settings = recipe["settings"]
    model = decode(ModelSettings, settings["model"])
    vocabulary = Vocabulary.of(TokenStore.open(recipe["inputs"]["tokens"]).tokenizer)
    return decode(Objective, settings["objective"]).build(model, vocabulary).flops(model, length, 0.5)


def run_row(options: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """Run both stages of a row and return its metrics."""
    first, second = options.work / "first", options.work / "second"
    first_metrics = pretrain(options, first, options.seconds, *ROWS[name], f"train.seed={seed}")
    start = (f"init_from={first}", *ROWS["plain"], f"train.seed={seed}")
    second_metrics = pretrain(options, second, options.settle, *start)
    results = {
        "seed": seed,
        "tokens_per_s": first_metrics["tokens_per_s"],
        "tokens": first_metrics["tokens"],
        "flops_of_a_token": flops(first, options.length),
        "heldout_loss_in_training": first_metrics["heldout_loss"],
        "heldout_loss": second_metrics["heldout_loss"],
        "heldout_accuracy": second_metrics["heldout_accuracy"],
        "precision": first_metrics["precision"],
    }
    print(
        f"seed {seed}  {name:22s} loss {results['heldout_loss']:.4f}  {results['tokens_per_s']:,.0f} tokens/s",
        flush=True,
    )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokens", type=Path, help="A token folder.")
    parser.add_argument("--recipe", default="mini", help="The recipe of every run.")
    parser.add_argument("--seconds", type=int, default=300, help="The seconds of the first stage.")
    parser.add_argument("--settle", type=int, default=60, help="The seconds of the second stage.")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="The seeds; each row runs once per seed."
    )
    parser.add_argument(
        "--rows", nargs="+", choices=ROWS, default=list(ROWS), help="The rows to run; the first is the baseline."
    )
    parser.add_argument(
        "--length", type=float, default=256, help="The sequence length in tokens at which operations are counted."
    )
    parser.add_argument("--settings", nargs="*", default=[], help="Settings of every run, each written path=value.")
    parser.add_argument("--work", type=Path, default=Path("runs/bench_late_masks"), help="The folder of the runs.")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).parent / "results" / "late_masks.json",
        help="The JSON file to write.",
    )
    options = parser.parse_args()

    from encodery.base import machine

    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in options.rows}
    for seed in options.seeds:
        for name in options.rows:
            runs[name].append(run_row(options, name, seed))
    plain = runs[options.rows[0]]
    summary = {
        name: {
            "heldout_loss": statistics.mean(run["heldout_loss"] for run in results),
            "range": [min(run["heldout_loss"] for run in results), max(run["heldout_loss"] for run in results)],
            "flops_against_first": results[0]["flops_of_a_token"] / plain[0]["flops_of_a_token"],
            "speed_against_first": statistics.median(
                run["tokens_per_s"] / other["tokens_per_s"] for run, other in zip(results, plain, strict=True)
            ),
        }
        for name, results in runs.items()
    }
    inputs = {key: getattr(options, key) for key in ("recipe", "seconds", "settle", "seeds", "length", "settings")}
    result = {"machine": machine.describe(), **inputs, "rows": ROWS, "summary": summary, "runs": runs}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for name, each in sorted(summary.items(), key=lambda item: item[1]["heldout_loss"]):
        print(
            f"{name:40s} loss {each['heldout_loss']:.4f} ({each['range'][0]:.4f} to {each['range'][1]:.4f}), "
            f"{each['flops_against_first']:.2f} of the operations, {each['speed_against_first']:.2f} times the speed"
        )


if __name__ == "__main__":
    main()
