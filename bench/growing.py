"""Compare growing a small model into a large one with training the large one from scratch, at equal wall time.

    python bench/growing.py TOKENS [--large mini] [--small tiny] [--seconds 1200] [--small-fraction 0.33]
                            [--seeds 0 1 2] [--rows scratch fpi ...] [path=value ...]

Every row has the same number of seconds for the same large model: `scratch` trains it for all of them (`encodery
pretrain`), the others train a small model for `--small-fraction` of them and the grown model for the rest (`encodery
pretrain grow`); in `cycle` the small model is made from the large one. TOKENS is a token folder, such as
`tokens_chunks` of `bench/pretrain.py`. The rows alternate, seed by seed. The results are the final held-out losses
(fixed masks at 15 %) as means with half the range, the curve of the held-out loss over seconds and over floating-point
operations of all stages, and for each row the fraction of the seconds and of the operations of `scratch` after which
its curve is below the final loss of `scratch`. The learning rate decays to zero within each stage, so only the final
losses compare; the other points of a curve belong to unfinished schedules.
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

LENGTH = 128
COMMON = (f"model.max_length={LENGTH}", f"feed.max_length={LENGTH}", "train.evals=20", "train.eval_time_fraction=0.1")
ROWS: dict[str, tuple[str, ...]] = {
    "scratch": (),
    "fpi": ("--small",),
    "fpi, equal shares": ("--small", "surgery.symmetry_breaking=0"),
    "fpi, repeated layers": ("--small", "surgery.layers=repeat"),
    "fpi, silent layers": ("--small", "surgery.layers=identity"),
    "aki": ("--small", "surgery.method=aki"),
    "tile": ("--small", "surgery.is=tile"),
    "cycle": ("--cycle",),
}
STAGES = ("first", "small", "large")


def train(options: argparse.Namespace, name: str, seed: int, out: Path) -> dict[str, Any]:
    """Run one row once and return its curve and its final metrics."""
    shutil.rmtree(out, ignore_errors=True)
    verb = ["pretrain"] if name == "scratch" else ["pretrain", "grow"]
    command = [
        sys.executable,
        "-m",
        "encodery",
        *verb,
        str(options.tokens),
        "--recipe",
        options.large,
        "--out",
        str(out),
    ]
    command += ["--budget", f"{options.seconds}s", *COMMON, f"train.seed={seed}", *options.settings]
    if name != "scratch":
        kind, *settings = ROWS[name]
        command += [kind, *([options.small] if kind == "--small" else []), *settings]
        command += ["--small-fraction", str(options.small_fraction)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    runs = [out] if name == "scratch" else [out / stage for stage in STAGES if (out / stage).is_dir()]
    curve: list[dict[str, Any]] = []
    seconds = flops = 0.0
    for run in runs:
        points, spent, done = loss_curve(run)
        curve += [{**p, "seconds": p["seconds"] + seconds, "flops": p["flops"] + flops} for p in points]
        seconds, flops = seconds + spent, flops + done
    metrics = json.loads((runs[-1] / "metrics.json").read_text())
    keys = ("heldout_loss", "heldout_accuracy", "bits_per_byte", "tokens", "tokens_per_s", "parameters", "precision")
    return {**{key: metrics[key] for key in keys if key in metrics}, "seconds": seconds, "flops": flops, "curve": curve}


def loss_curve(run: Path) -> tuple[list[dict[str, Any]], float, float]:
    """Return the held-out losses of a run by seconds and operations since its start, and the totals of both."""
    from encodery.base.run_log import read_log
    from encodery.base.settings import decode
    from encodery.model import count
    from encodery.model.settings import ModelSettings

    table = json.loads((run / "recipe.json").read_text())["settings"]
    each = count.flops_per_token(decode(ModelSettings, table["model"]), LENGTH)
    points = [
        {"stage": run.name, "seconds": line["elapsed"], "flops": line["tokens"] * each, "loss": line["heldout_loss"]}
        for line in read_log(run / "log.jsonl")
        if "heldout_loss" in line
    ]
    metrics = json.loads((run / "metrics.json").read_text())
    return points, metrics["seconds"], metrics["tokens"] * each


def fraction_to_scratch(run: dict[str, Any], scratch: dict[str, Any], unit: str) -> float | None:
    """Return the fraction of the seconds or operations of `scratch` that `run` needs for its final loss.

    None if it never reaches that loss.
    """
    end = scratch["curve"][-1]["loss"]
    first = next((p for p in run["curve"] if p["stage"] != "small" and p["loss"] <= end), None)
    return None if first is None else round(first[unit] / scratch[unit], 3)


def summary(results: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return means and half ranges over the seeds; each seed is compared with `scratch` of the same seed."""
    reported: dict[str, Any] = {}
    for name, runs in results.items():
        losses = [run["heldout_loss"] for run in runs]
        reported[name] = {"heldout_loss": statistics.mean(losses), "spread": (max(losses) - min(losses)) / 2}
        if name == "scratch" or "scratch" not in results:
            continue
        pairs = list(zip(runs, results["scratch"], strict=True))
        reported[name]["ahead"] = statistics.mean(s["heldout_loss"] - run["heldout_loss"] for run, s in pairs)
        for unit in ("seconds", "flops"):
            reported[name][f"{unit}_to_scratch"] = [fraction_to_scratch(run, s, unit) for run, s in pairs]
    return reported


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokens", type=Path, help="A token folder.")
    parser.add_argument("settings", nargs="*", help="Settings of every run, each written path=value.")
    parser.add_argument("--large", default="mini", help="The recipe of the large model.")
    parser.add_argument("--small", default="tiny", help="The recipe of the small model.")
    parser.add_argument("--seconds", type=int, default=1200, help="The training time of a row, all stages together.")
    parser.add_argument(
        "--small-fraction", type=float, default=0.33, help="The fraction of the seconds spent on the small model."
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="The seeds; each row runs once per seed."
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="The rows to run.")
    parser.add_argument("--work", type=Path, default=Path("runs/bench_growing"), help="The folder of the runs.")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "growing.json", help="The JSON file to write."
    )
    options = parser.parse_intermixed_args()

    from encodery.base import machine

    results: dict[str, list[dict[str, Any]]] = {name: [] for name in options.rows}
    for seed in options.seeds:
        for number, name in enumerate(options.rows):
            run = train(options, name, seed, options.work / f"{number}-{seed}")
            results[name].append(run)
            print(f"seed {seed}  {name:22s} loss {run['heldout_loss']:.3f}", flush=True)
    result = {
        "machine": machine.describe(),
        **{key: getattr(options, key) for key in ("large", "small", "seconds", "seeds", "settings")},
        "share": options.small_fraction,
        "common": COMMON,
        "rows": {name: list(ROWS[name]) for name in options.rows},
        "summary": summary(results),
        "runs": results,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for name, row in sorted(result["summary"].items(), key=lambda item: item[1]["heldout_loss"]):
        ahead = f", ahead by {row['ahead']:+.3f}" if "ahead" in row else ""
        print(f"{name:22s} loss {row['heldout_loss']:.3f} ± {row['spread']:.3f}{ahead}")


if __name__ == "__main__":
    main()
