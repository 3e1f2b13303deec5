"""Measure how evenly the sequences of a step are assigned to ranks: in turn, or balanced by length.

    python bench/dealing.py TOKENS [--ranks 8 64] [--tokens 4096] [--length 128] [--width 256] [--steps 200]

TOKENS is a token folder, such as `tokens_lines` of `bench/pretrain.py`. For each number of ranks, steps of `--tokens`
tokens per rank are drawn as a run draws them, and assigned in turn and by `tokens.fit.balance`. The result is the
excess of the largest load of a rank over the mean load, averaged over the steps: in tokens, and in work (tokens and
their attention). All ranks wait for the rank with the largest load. Nothing is timed: the result depends on the text
alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np


def excess(loads: np.ndarray) -> float:
    """Return how far the largest load exceeds the mean, as a fraction of the mean."""
    return float(loads.max() / loads.mean() - 1)


def measure(options: argparse.Namespace, ranks: int) -> dict[str, dict[str, float]]:
    """Return, for each assignment, the mean excess in tokens and in work."""
    from encodery.tokens.fit import balance
    from encodery.tokens.loader import LoaderSettings, PackedLoader
    from encodery.tokens.store import TokenStore
    from encodery.train.pretrain import BREAK_EVEN_WIDTHS

    settings = LoaderSettings(max_length=options.length, batch_tokens=options.tokens * ranks)
    loader = PackedLoader(TokenStore.open(options.tokens_folder).train, settings, 0)
    break_even = BREAK_EVEN_WIDTHS * options.width
    rng = np.random.default_rng(0)
    results: dict[str, list[tuple[float, float]]] = {"one after the other": [], "by length": []}
    for _ in range(options.steps):
        sizes = rng.permutation(loader.next().lengths.astype(np.int64))  # The loader sorts a batch by length.
        descending = np.sort(sizes)[::-1]
        assignments = {
            "one after the other": (sizes, np.arange(len(sizes)) % ranks),
            "by length": (descending, balance(descending, ranks, break_even)),
        }
        for name, (lengths, assigned) in assignments.items():
            work = lengths * (1 + lengths / break_even)
            results[name].append(
                (excess(np.bincount(assigned, lengths, ranks)), excess(np.bincount(assigned, work, ranks)))
            )
    return {
        name: dict(zip(("tokens", "work"), np.mean(each, axis=0).tolist(), strict=True))
        for name, each in results.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokens_folder", metavar="TOKENS", type=Path, help="A token folder.")
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 64], help="The numbers of ranks.")
    parser.add_argument("--tokens", type=int, default=4096, help="The number of tokens per rank and step.")
    parser.add_argument("--length", type=int, default=128, help="The maximum length of a sequence in tokens.")
    parser.add_argument(
        "--width", type=int, default=256, help="The width of the model, which determines the cost of attention."
    )
    parser.add_argument("--steps", type=int, default=200, help="The number of steps to average over.")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "dealing.json", help="The JSON file to write."
    )
    options = parser.parse_args()
    rows = {str(ranks): measure(options, ranks) for ranks in options.ranks}
    queries = {key: getattr(options, key) for key in ("ranks", "tokens", "length", "width", "steps")}
    options.out.write_text(json.dumps({**queries, "rows": rows}, indent=1) + "\n")
    for ranks, assignments in rows.items():
        for name, row in assignments.items():
            print(f"{ranks:>4s} ranks  {name:20s} {row['tokens']:.2%} of tokens, {row['work']:.2%} of work")


if __name__ == "__main__":
    main()
