"""Measure the fraction of the peer's time that encodery needs to reach the loss of `transformers.Trainer`.

    python bench/pretrain_reach.py --text DIR [--shape tiny] [--layout chunks] [--seconds 1200] [--fractions 0.1 0.2]

Shapes, data and evaluation are those of `pretrain.py`. The peer trains for a tenth of its seconds at each of three
learning rates, then for all of them at the best one; it runs with bf16 and without dropout, which is better for it than
its defaults (`--stock` selects those). encodery trains for each fraction of the seconds with each seed, with the
settings of `pretrain.py` and a schedule that ends with its own seconds, up to the first fraction at which every seed is
at or below the loss of the peer. The results are the held-out losses of both exports, by stock `transformers`, and that
fraction.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from pretrain import HERE, SHAPES, prepare, run_encodery, run_peer
from pretrain_data import LAYOUTS

KEPT = ("heldout_loss", "heldout_accuracy", "tokens", "steps", "tokens_per_s", "precision", "beginning_s")


def run_once(options: argparse.Namespace, side: str, seconds: float, seed: int, rate: float) -> dict[str, Any]:
    """Run one side once and return its metrics."""
    out = options.work / "runs" / f"reach-{options.shape}-{options.layout}-{side}"
    shutil.rmtree(out, ignore_errors=True)
    inputs = argparse.Namespace(**{**vars(options), "seconds": round(seconds), "peer_lr": rate})
    if side == "encodery":
        results = run_encodery(options.work, out, options.shape, options.layout, inputs, seed)
    else:
        results = run_peer(options.work, out, options.shape, options.layout, inputs, seed, not options.stock)
    row = {
        "seconds": round(seconds),
        "seed": seed,
        "rate": rate,
        **{key: results[key] for key in KEPT if key in results},
    }
    print(side, row, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="Files or folders of text.")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/bench_pretrain"), help="The folder of the data and the runs."
    )
    parser.add_argument("--shape", choices=SHAPES, default="tiny", help="The model shape.")
    parser.add_argument("--layout", choices=LAYOUTS, default="chunks", help="The layout of the text.")
    parser.add_argument("--seconds", type=float, default=1200, help="The training time of the peer.")
    parser.add_argument(
        "--fractions",
        dest="shares",  # The key in the results file.
        type=float,
        nargs="+",
        default=[0.1, 0.2],
        help="The fractions of the seconds to try.",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="The seeds of encodery.")
    parser.add_argument(
        "--rates", type=float, nargs=3, default=[5e-4, 1.5e-3, 4e-3], help="The learning rates of the peer."
    )
    parser.add_argument("--rate", type=float, default=1e-3, help="The learning rate of encodery.")
    parser.add_argument("--stock", action="store_true", help="Run the peer with its own defaults: fp32, dropout 0.1.")
    parser.add_argument("--peer", type=Path, help="An earlier result whose runs of the peer are reused.")
    parser.add_argument("--vocab", type=int, default=16384, help="The size of the vocabulary.")
    parser.add_argument("--peer-batch", type=int, default=32, help="The sequences per step of the peer.")
    parser.add_argument("--ours", nargs="*", default=[], help="Settings of encodery, each written path=value.")
    parser.add_argument(
        "--out", type=Path, default=HERE / "results" / "pretrain_reach.json", help="The JSON file to write."
    )
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    options.ours = [f"optim.lr={options.rate}", *options.ours]
    prepare(options.text, options.work, options.vocab)

    from encodery.base import machine

    if options.peer is not None:
        earlier = json.loads(options.peer.read_text())
        pilots, peer = earlier["pilots"], earlier["peer"]
    else:
        pilots = [run_once(options, "trainer", options.seconds / 10, 0, rate) for rate in options.rates]
        best = min(pilots, key=lambda row: row["heldout_loss"])["rate"]
        peer = run_once(options, "trainer", options.seconds, 0, best)
    ours: dict[float, list[dict[str, Any]]] = {}
    reached = None
    for fraction in sorted(options.shares):
        seconds = options.seconds * fraction
        ours[fraction] = [run_once(options, "encodery", seconds, seed, options.rate) for seed in options.seeds]
        if max(row["heldout_loss"] for row in ours[fraction]) <= peer["heldout_loss"]:
            reached = fraction
            break
    result = {
        "machine": machine.describe(),
        "settings": {k: v for k, v in vars(options).items() if k not in ("text", "work", "out", "peer")},
        "when": time.strftime("%Y-%m-%d"),
        "pilots": pilots,
        "peer": peer,
        "encodery": ours,
        "reached_at": reached,
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"peer: {peer['heldout_loss']:.3f} after {options.seconds:.0f} s at lr {peer['rate']:g}")
    for fraction, rows in ours.items():
        results = [row["heldout_loss"] for row in rows]
        spread = f"{min(results):.3f} to {max(results):.3f}"
        print(f"encodery after {fraction:.0%} of that: {statistics.mean(results):.3f} ({spread})")


if __name__ == "__main__":
    main()
