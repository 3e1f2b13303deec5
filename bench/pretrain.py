"""Pre-training speed and quality: encodery against `transformers.Trainer` (the run_mlm recipe), paired in one run.

    python bench/pretrain.py --text DIR [--shapes tiny mini small] [--layouts chunks lines] [--seconds 120] [--pairs 3]

Same BERT architecture, tokenizer, text and machine. The two take turns (A B A B ...), each trains for the same
number of wall-clock seconds, and stock `transformers` judges both exports on the same held-out rows and masks.
Reported: real (non-padding) tokens per second as medians with their ratio, held-out loss at equal wall time, and
the share of the machine's measured fp32 and bf16 matmul peak that encodery's steps reach.

Rows: `encodery` (precision=auto, dropout 0, steps of 2,048 tokens, 4,096 at mini, rate 1e-3, weights that begin as
bigrams of the text, whose time is taken off), `trainer` (the recipe's defaults: fp32, dropout 0.1, steps of 32 rows)
and, with `--tuned-peer`, `trainer tuned` (bf16 where the CPU has it, dropout 0).
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pretrain_data import LAYOUTS, judge_rows, lines_corpus, rows

HERE = Path(__file__).resolve().parent
SHAPES = {"tiny": (2, 128, 2), "mini": (4, 256, 4), "small": (4, 512, 8)}
STEPS = {"tiny": 2048, "mini": 4096, "small": 2048}  # tokens of encodery's steps; the peer's are 32 x 128
LENGTH = 128


def encodery(*arguments: str | Path) -> None:
    """Run one encodery command as a user would."""
    subprocess.run([sys.executable, "-m", "encodery", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def prepare(text: list[Path], work: Path, vocab: int) -> None:
    """Corpus, tokenizer, both token stores, the peer's rows and the judge's rows; what exists is kept."""
    from encodery.tokens.tokenizer import Tokenizer

    if not (work / "corpus").exists():
        encodery("corpus", "build", *text, "--out", work / "corpus")
    if not (work / "tokenizer").exists():
        encodery(
            "tokens", "train", work / "corpus", "--out", work / "tokenizer", "kind=wordpiece", f"vocab_size={vocab}"
        )
    if not (work / "corpus_lines").exists():
        lines_corpus(work / "corpus", work / "corpus_lines")
    tokenizer = Tokenizer.load(work / "tokenizer")
    for layout, corpus in zip(LAYOUTS, ("corpus", "corpus_lines"), strict=True):
        if not (work / f"tokens_{layout}").exists():
            encodery(
                "tokens", "encode", work / corpus, "--tokenizer", work / "tokenizer", "--out", work / f"tokens_{layout}"
            )
        if not (work / f"{layout}.npz").exists():
            ids, offsets = rows(work / "corpus", "train", tokenizer, layout, LENGTH)
            np.savez(work / f"{layout}.npz", ids=ids, offsets=offsets)
            ids, offsets = rows(work / "corpus", "heldout", tokenizer, layout, LENGTH)
            np.savez(work / f"judge_{layout}.npz", **judge_rows(ids, offsets, tokenizer))


def beginning(store: Path, depth: int, width: int, heads: int) -> float:
    """The seconds that the first weights of such a model take before its first step."""
    from encodery.model.network import build_model
    from encodery.model.settings import ModelSettings
    from encodery.tokens.store import TokenStore
    from encodery.train.data_init.bigrams import BigramsInit

    split = TokenStore.open(store)
    sizes = {"depth": depth, "width": width, "heads": heads, "max_length": LENGTH}
    model = build_model(ModelSettings(vocab_size=split.special_tokens.vocab_size, **sizes))
    begun = time.perf_counter()
    BigramsInit().apply(model, split.train, torch.Generator().manual_seed(0))
    return time.perf_counter() - begun


def run_ours(work: Path, out: Path, shape: str, layout: str, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One encodery run of so many seconds; its figures and the judge's."""
    depth, width, heads = SHAPES[shape]
    begun = beginning(work / f"tokens_{layout}", depth, width, heads)
    encodery(
        "pretrain", work / f"tokens_{layout}", "--recipe", "bert", "--out", out, "--budget",
        f"{options.seconds - begun:.1f}s", "data_init.is=bigrams",
        f"model.depth={depth}", f"model.width={width}", f"model.heads={heads}", f"model.max_length={LENGTH}",
        f"model.intermediate_size={4 * width}", "model.dropout=0", "model.attention.dropout=0",
        f"feed.max_length={LENGTH}", "optim.lr=1e-3", "train.lr_schedule=linear(warmup=6%)",
        f"train.batch_tokens={STEPS[shape]}",
        "train.evals=0", f"train.seed={seed}", *options.ours,
    )  # fmt: skip
    encodery("model", "export", out, "--format", "hf", "--out", out / "export")
    metrics = json.loads((out / "metrics.json").read_text())
    return {**metrics, "beginning_s": begun, **judged(out / "export", work / f"judge_{layout}.npz")}


def run_peer(
    work: Path, out: Path, shape: str, layout: str, options: argparse.Namespace, seed: int, tuned: bool
) -> dict[str, Any]:
    """One `transformers.Trainer` run of so many seconds; its figures and the judge's."""
    out.mkdir(parents=True)
    command = [
        sys.executable, HERE / "pretrain_peer.py", "--data", work, "--out", out, "--shape", shape, "--layout", layout,
        "--seconds", options.seconds, "--vocab", options.vocab, "--length", LENGTH, "--lr", options.peer_lr,
        "--batch", options.peer_batch, "--seed", seed,
    ]  # fmt: skip
    if tuned:
        command += ["--bf16", "--dropout", "0"]
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
    return {**json.loads((out / "metrics.json").read_text()), **judged(out / "export", work / f"judge_{layout}.npz")}


def judged(export: Path, judge: Path) -> dict[str, float]:
    """Held-out loss and accuracy by stock transformers."""
    answer = subprocess.run(
        [sys.executable, HERE / "pretrain_judge.py", export, judge], check=True, capture_output=True, text=True
    )
    results: dict[str, float] = json.loads(answer.stdout)
    return {"heldout_loss": results["loss"], "heldout_accuracy": results["accuracy"]}


def compare(work: Path, shape: str, layout: str, options: argparse.Namespace) -> dict[str, Any]:
    """All pairs of one shape and layout, in turns."""
    sides = {"encodery": run_ours, "trainer": run_peer} | ({"trainer tuned": run_peer} if options.tuned_peer else {})
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for pair in range(options.pairs):
        for name, run in sides.items():
            out = work / "runs" / f"{shape}-{layout}-{name.replace(' ', '_')}-{pair}"
            shutil.rmtree(out, ignore_errors=True)
            extra = () if run is run_ours else (name.endswith("tuned"),)
            metrics = run(work, out, shape, layout, options, pair, *extra)  # type: ignore[operator]
            keep = (
                "tokens_per_s",
                "heldout_loss",
                "heldout_accuracy",
                "tokens",
                "steps",
                "mfu",
                "precision",
                "beginning_s",
            )
            results[name].append({key: metrics[key] for key in keep if key in metrics})
            print(f"{shape} {layout} {name}: {results[name][-1]}", flush=True)
    return {"shape": shape, "layout": layout, "runs": results, **summary(results)}


def summary(results: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians per side, and the ratio of tokens per second against each peer, pair by pair."""
    medians = {
        name: {key: statistics.median(run[key] for run in runs) for key in ("tokens_per_s", "heldout_loss")}
        for name, runs in results.items()
    }
    ratios = {
        name: statistics.median(
            ours["tokens_per_s"] / theirs["tokens_per_s"]
            for ours, theirs in zip(results["encodery"], runs, strict=True)
        )
        for name, runs in results.items()
        if name != "encodery"
    }
    return {"medians": medians, "speedup": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, nargs="+", required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/bench_pretrain"))
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--vocab", type=int, default=16384)
    parser.add_argument("--peer-lr", type=float, default=5e-4)
    parser.add_argument("--peer-batch", type=int, default=32)
    parser.add_argument("--tuned-peer", action="store_true")
    parser.add_argument("--ours", nargs="*", default=[], help="settings for encodery, path=value")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "pretrain.json")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    prepare(options.text, options.work, options.vocab)

    import transformers

    from encodery.base import machine

    result = {
        "machine": machine.describe(),
        "matmul_peak": {str(d): machine.matmul_peak(d) for d in (torch.float32, torch.bfloat16)},
        "versions": {"transformers": transformers.__version__, "python": platform.python_version()},
        "settings": {k: v for k, v in vars(options).items() if k not in ("text", "work", "out")},
        "when": time.strftime("%Y-%m-%d"),
        "rows": [],
    }
    for shape in options.shapes:
        for layout in options.layouts:
            result["rows"].append(compare(options.work, shape, layout, options))
            options.out.write_text(json.dumps(result, indent=1) + "\n")
    for row in result["rows"]:
        print(row["shape"], row["layout"], row["speedup"], row["medians"])


if __name__ == "__main__":
    main()
