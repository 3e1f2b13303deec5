"""Compare replaced-token detection (ELECTRA) with masked language modelling at equal operations, by fine-tuning.

    python bench/replaced_tokens.py TOKENS ROWS [--recipe nano] [--tokens 400000] [--seeds 0 1]

Every run is pre-trained: `mlm` on `--tokens` tokens, and `replaced_tokens` on as many as cost the same operations,
counted from the settings. Then it is fine-tuned for one epoch on ROWS, a file of texts and labels, and its accuracy on
the test split is compared. Only operations are equal, not times, so other load of the machine does not matter.
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

LENGTH = 100.0  # tokens of a sequence, at which operations are counted
ROWS: dict[str, tuple[str, ...]] = {
    "mlm": (),
    "replaced_tokens": (
        'objective={is="replaced_tokens"}',
        "model.head=none",
        'model.extra_heads=["replaced_tokens"]',
    ),
}


def flops(recipe: str, tokens: Path, settings: tuple[str, ...]) -> float:
    """Return the operations per token in the middle of a run, forward and backward."""
    from encodery.base.settings import parse_overrides
    from encodery.corrupt import Vocabulary
    from encodery.tokens.store import TokenStore
    from encodery.train.pretrain_settings import read_settings

    store = TokenStore.open(tokens)
    whole = read_settings(recipe, parse_overrides(settings), store)
    return whole.objective.build(whole.model, Vocabulary.of(store.tokenizer)).flops(whole.model, LENGTH, 0.5)


def encodery(out: Path, *arguments: str) -> dict[str, Any]:
    """Run a command that writes `out`, and return its metrics that are numbers."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "encodery", *arguments, "--out", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    metrics: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return {name: value for name, value in metrics.items() if isinstance(value, int | float)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokens_folder", type=Path, help="A token folder.")
    parser.add_argument("rows", type=Path, help="A file with the columns text and label.")
    parser.add_argument("--recipe", default="nano", help="The recipe of every run.")
    parser.add_argument("--tokens", type=int, default=400_000, help="The tokens of masked language modelling.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="The seeds; each row runs once per seed.")
    parser.add_argument("--work", type=Path, default=Path("runs/bench_replaced_tokens"), help="The folder of the runs.")
    results = Path(__file__).parent / "results"
    parser.add_argument("--out", type=Path, default=results / "replaced_tokens.json", help="The JSON file to write.")
    options = parser.parse_args()

    costs = {name: flops(options.recipe, options.tokens_folder, settings) for name, settings in ROWS.items()}
    ratio = costs["replaced_tokens"] / costs["mlm"]
    runs: list[dict[str, Any]] = []
    for seed in options.seeds:
        for name, settings in ROWS.items():
            budget = f"{options.tokens / (ratio if name != 'mlm' else 1.0) / 1e6}Mtok"
            first, second, seeded = options.work / "first", options.work / "second", f"train.seed={seed}"
            common = ("--recipe", options.recipe, "--budget", budget, "train.evals=0", seeded)
            pretrained = encodery(first, "pretrain", str(options.tokens_folder), *common, *settings)
            task = ("finetune", "classify", str(options.rows), "--model", str(first), "epochs=1", seeded)
            runs.append({"objective": name, "seed": seed, "pretrain": pretrained, "finetune": encodery(second, *task)})
            print(f"seed {seed}  {name:16s} test accuracy {runs[-1]['finetune']['test_accuracy']:.4f}", flush=True)
    write(options.out, {"recipe": options.recipe, "mlm_tokens": options.tokens, "flops_against_mlm": ratio}, runs)


def write(path: Path, inputs: dict[str, Any], runs: list[dict[str, Any]]) -> None:
    """Write the runs, and for each objective the mean and the range of its test accuracy."""
    summary = {}
    for name in ROWS:
        values = [run["finetune"]["test_accuracy"] for run in runs if run["objective"] == name]
        summary[name] = {"test_accuracy": statistics.mean(values), "range": [min(values), max(values)]}
    path.write_text(json.dumps({**inputs, "summary": summary, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
