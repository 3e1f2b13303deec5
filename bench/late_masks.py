"""[MASK]s that join late or never (3ML, MAE-LM) against plain masking at equal wall time, judged alike.

    python bench/late_masks.py TOKENS [--recipe mini] [--seconds 300] [--settle 60] [--seeds 0 1 2] [--rows plain ...]

Models whose [MASK]s come by another way have no head of their own, and their losses in training do not compare. So
every row is trained for --seconds with its objective and then for --settle more, from its encoder with a fresh head,
with plain masking at 15 %; the held-out loss after that, of fixed masks, is what is compared, and the plain row goes
through the same. Reported beside it: text tokens per second of the first stage and the arithmetic of a text token, as
counted from the settings. Rows take turns over the seeds.
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

HALF = ("objective.corruption.is=token", "objective.corruption.rate=0.5")
SIXTH = ("objective.corruption.is=token", "objective.corruption.rate=0.15")
FEW = "objective.corruption.predict_rate=0.15"  # the head costs as much as what it predicts
ROWS: dict[str, tuple[str, ...]] = {
    "plain": ("objective.is=mlm", *SIXTH),
    "plain, half hidden": ("objective.is=mlm", *HALF),
    "late, half hidden": ("objective.is=mask_late", *HALF),
    "late, half hidden, a sixth predicted": ("objective.is=mask_late", *HALF, FEW),
    "decoder": ("objective.is=masked_autoencoder", "objective.depth=1", *SIXTH),
    "decoder, half hidden": ("objective.is=masked_autoencoder", "objective.depth=1", *HALF),
    "decoder, half hidden, a sixth predicted": ("objective.is=masked_autoencoder", "objective.depth=1", *HALF, FEW),
}


def pretrain(options: argparse.Namespace, out: Path, seconds: int, *settings: str) -> dict[str, Any]:
    """One run and its figures."""
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
    """Operations of a text token in the middle of a run, forward and backward."""
    from encodery.base.settings import decode
    from encodery.corrupt import Vocabulary
    from encodery.model.settings import ModelSettings
    from encodery.objectives import Objective
    from encodery.tokens.store import TokenStore

    recipe = json.loads((run / "recipe.json").read_text())
    settings = recipe["settings"]
    model = decode(ModelSettings, settings["model"])
    words = Vocabulary.of(TokenStore.open(recipe["inputs"]["tokens"]).tokenizer)
    return decode(Objective, settings["objective"]).build(model, words).flops(model, length, 0.5)


def row(options: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """Both stages of a row."""
    first, second = options.work / "first", options.work / "second"
    learned = pretrain(options, first, options.seconds, *ROWS[name], f"train.seed={seed}")
    start = (f"init_from={first}", *ROWS["plain"], f"train.seed={seed}")
    settled = pretrain(options, second, options.settle, *start)
    results = {
        "seed": seed,
        "tokens_per_s": learned["tokens_per_s"],
        "tokens": learned["tokens"],
        "flops_of_a_token": flops(first, options.length),
        "heldout_loss_in_training": learned["heldout_loss"],
        "heldout_loss": settled["heldout_loss"],
        "heldout_accuracy": settled["heldout_accuracy"],
        "precision": learned["precision"],
    }
    print(
        f"seed {seed}  {name:22s} loss {results['heldout_loss']:.4f}  {results['tokens_per_s']:,.0f} tokens/s",
        flush=True,
    )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("--recipe", default="mini")
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--settle", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--length", type=float, default=256, help="of the sequences whose arithmetic is counted")
    parser.add_argument("--settings", nargs="*", default=[], help="path=value, for every run")
    parser.add_argument("--work", type=Path, default=Path("runs/bench_late_masks"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "late_masks.json")
    options = parser.parse_args()

    from encodery.base import machine

    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in options.rows}
    for seed in options.seeds:
        for name in options.rows:
            runs[name].append(row(options, name, seed))
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
    queries = {key: getattr(options, key) for key in ("recipe", "seconds", "settle", "seeds", "length", "settings")}
    result = {"machine": machine.describe(), **queries, "rows": ROWS, "summary": summary, "runs": runs}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for name, each in sorted(summary.items(), key=lambda item: item[1]["heldout_loss"]):
        print(
            f"{name:40s} loss {each['heldout_loss']:.4f} ({each['range'][0]:.4f} to {each['range'][1]:.4f}), "
            f"{each['flops_against_first']:.2f} of the arithmetic, {each['speed_against_first']:.2f} times the speed"
        )


if __name__ == "__main__":
    main()
