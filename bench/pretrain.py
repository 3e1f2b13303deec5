"""Compare pre-training with encodery and with `transformers.Trainer` (the run_mlm recipe): speed and quality, in pairs.

    python bench/pretrain.py --text DIR [--shapes tiny mini small] [--layouts chunks lines] [--seconds 120] [--pairs 3]

Both have the same BERT architecture, tokenizer, text and machine. They alternate (A B A B ...), each trains for the
same number of seconds of wall time, and stock `transformers` evaluates both exports on the same held-out sequences and
masks. The results are real (non-padding) tokens per second as medians with their ratio, the held-out loss at equal wall
time, and the fraction of the measured fp32 and bf16 matmul peak of the machine that encodery's steps reach.

Sides: `encodery` (precision=auto, dropout 0, steps of 2,048 tokens, 4,096 at mini, learning rate 1e-3, weights
initialised from the bigrams of the text; the time of the initialisation is deducted from the budget), `trainer` (the
defaults of the recipe: fp32, dropout 0.1, steps of 32 sequences) and, with `--tuned-peer`, `trainer tuned` (bf16 if the
CPU supports it, dropout 0).
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

from pretrain_data import LAYOUTS, judge_sequences, lines_corpus, peer_sequences

HERE = Path(__file__).resolve().parent
SHAPES = {"tiny": (2, 128, 2), "mini": (4, 256, 4), "small": (4, 512, 8)}
# Tokens per step of encodery; the peer's steps have 32 x 128.
STEP_TOKENS = {"tiny": 2048, "mini": 4096, "small": 2048}
LENGTH = 128


def encodery(*arguments: str | Path) -> None:
    """Run one encodery command as a user would."""
    subprocess.run([sys.executable, "-m", "encodery", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def prepare(text: list[Path], work: Path, vocab: int) -> None:
    """Write the corpus, the tokenizer, the token folders and the sequences of peer and judge, unless they exist."""
    from encodery.tokens.tokenizer import Tokenizer

    if not (work / "corpus").exists():
        encodery("corpus", "build", *text, "--out", work / "corpus")
    if not (work / "tokenizer").exists():
        encodery(
            "tokens",
            "train",
            work / "corpus",
            "--out",
            work / "tokenizer",
            "kind=wordpiece",
            "kind.lowercase=true",
            "kind.strip_accents=true",
            f"vocab_size={vocab}",
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
            ids, offsets = peer_sequences(work / "corpus", "train", tokenizer, layout, LENGTH)
            np.savez(work / f"{layout}.npz", ids=ids, offsets=offsets)
            ids, offsets = peer_sequences(work / "corpus", "heldout", tokenizer, layout, LENGTH)
            np.savez(work / f"judge_{layout}.npz", **judge_sequences(ids, offsets, tokenizer))


def init_seconds(store: Path, depth: int, width: int, heads: int) -> float:
    """Return the seconds that the data-dependent initialisation of such a model takes."""
    from encodery.model.network import build_model
    from encodery.model.settings import ModelSettings
    from encodery.tokens.store import TokenStore
    from encodery.train.data_init.bigrams import BigramsInit

    split = TokenStore.open(store)
    sizes = {"depth": depth, "width": width, "heads": heads, "max_length": LENGTH}
    model = build_model(ModelSettings(vocab_size=split.special_tokens.vocab_size, **sizes))
    start = time.perf_counter()
    BigramsInit().apply(model, split.train, torch.Generator().manual_seed(0))
    return time.perf_counter() - start


def run_encodery(
    work: Path, out: Path, shape: str, layout: str, options: argparse.Namespace, seed: int
) -> dict[str, Any]:
    """Run encodery for the given seconds and return its metrics and those of the judge."""
    depth, width, heads = SHAPES[shape]
    init_s = init_seconds(work / f"tokens_{layout}", depth, width, heads)
    encodery(
        "pretrain", work / f"tokens_{layout}", "--recipe", "bert", "--out", out, "--budget",
        f"{options.seconds - init_s:.1f}s", "data_init.is=bigrams",
        f"model.depth={depth}", f"model.width={width}", f"model.heads={heads}", f"model.max_length={LENGTH}",
        f"model.intermediate_size={4 * width}", "model.dropout=0", "model.attention.dropout=0",
        f"feed.max_length={LENGTH}", "optim.lr=1e-3", "train.lr_schedule=linear(warmup=6%)",
        f"train.batch_tokens={STEP_TOKENS[shape]}",
        "train.evals=0", f"train.seed={seed}", *options.ours,
    )  # fmt: skip
    encodery("model", "export", out, "--format", "hf", "--out", out / "export")
    metrics = json.loads((out / "metrics.json").read_text())
    return {**metrics, "beginning_s": init_s, **judge_export(out / "export", work / f"judge_{layout}.npz")}


def run_peer(
    work: Path, out: Path, shape: str, layout: str, options: argparse.Namespace, seed: int, tuned: bool
) -> dict[str, Any]:
    """Run `transformers.Trainer` for the given seconds and return its metrics and those of the judge."""
    out.mkdir(parents=True)
    command = [
        sys.executable, HERE / "pretrain_peer.py", "--data", work, "--out", out, "--shape", shape, "--layout", layout,
        "--seconds", options.seconds, "--vocab", options.vocab, "--length", LENGTH, "--lr", options.peer_lr,
        "--batch", options.peer_batch, "--seed", seed,
    ]  # fmt: skip
    if tuned:
        command += ["--bf16", "--dropout", "0"]
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
    return {
        **json.loads((out / "metrics.json").read_text()),
        **judge_export(out / "export", work / f"judge_{layout}.npz"),
    }


def judge_export(export: Path, judge: Path) -> dict[str, float]:
    """Return the held-out loss and accuracy, computed by stock `transformers`."""
    answer = subprocess.run(
        [sys.executable, HERE / "pretrain_judge.py", export, judge], check=True, capture_output=True, text=True
    )
    results: dict[str, float] = json.loads(answer.stdout)
    return {"heldout_loss": results["loss"], "heldout_accuracy": results["accuracy"]}


def compare(work: Path, shape: str, layout: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run all pairs of one shape and layout, alternately."""
    sides = {"encodery": run_encodery, "trainer": run_peer} | (
        {"trainer tuned": run_peer} if options.tuned_peer else {}
    )
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for pair in range(options.pairs):
        for name, run in sides.items():
            out = work / "runs" / f"{shape}-{layout}-{name.replace(' ', '_')}-{pair}"
            shutil.rmtree(out, ignore_errors=True)
            extra = () if run is run_encodery else (name.endswith("tuned"),)
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
    """Return medians per side, and the median over the pairs of the ratio of tokens per second to each peer."""
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
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="Files or folders of text.")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/bench_pretrain"), help="The folder of the data and the runs."
    )
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), help="The model shapes.")
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS), help="The layouts of the text.")
    parser.add_argument("--seconds", type=int, default=120, help="The training time of a run.")
    parser.add_argument("--pairs", type=int, default=3, help="The number of paired runs.")
    parser.add_argument("--vocab", type=int, default=16384, help="The size of the vocabulary.")
    parser.add_argument("--peer-lr", type=float, default=5e-4, help="The peak learning rate of the peer.")
    parser.add_argument("--peer-batch", type=int, default=32, help="The sequences per step of the peer.")
    parser.add_argument("--tuned-peer", action="store_true", help="Also run the peer with bf16 and without dropout.")
    parser.add_argument("--ours", nargs="*", default=[], help="Settings of encodery, each written path=value.")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "pretrain.json", help="The JSON file to write.")
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
