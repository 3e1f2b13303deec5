"""How evenly the sequences of a step are dealt to ranks: one after the other, or by length (`tokens.fit.deal`).

    python bench/dealing.py TOKENS [--ranks 8 64] [--tokens 4096] [--length 128] [--width 256] [--steps 200]

TOKENS is a token store, such as `tokens_lines` of `bench/pretrain.py`. For each number of ranks, steps of `--tokens` a
rank are drawn as a run draws them, and dealt both ways. Reported is how much more the busiest rank has than the mean,
the mean over the steps: in tokens, and in work, which is tokens and their attention. All ranks wait for that one.
Nothing is timed: the figures depend on the text alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np


def excess(loads: np.ndarray) -> float:
    """Of the busiest rank over the mean, as a share of the mean."""
    return float(loads.max() / loads.mean() - 1)


def measure(options: argparse.Namespace, ranks: int) -> dict[str, dict[str, float]]:
    """Way of dealing -> excess in tokens and in work."""
    from encodery.tokens.fit import balance
    from encodery.tokens.loader import LoaderSettings, PackedLoader
    from encodery.tokens.store import TokenStore
    from encodery.train.pretrain import BREAK_EVEN_WIDTHS

    settings = LoaderSettings(max_length=options.length, batch_tokens=options.tokens * ranks)
    feed, even = (
        PackedLoader(TokenStore.open(options.tokens_folder).train, settings, 0),
        BREAK_EVEN_WIDTHS * options.width,
    )
    draw = np.random.default_rng(0)
    results: dict[str, list[tuple[float, float]]] = {"one after the other": [], "by length": []}
    for _ in range(options.steps):
        sizes = draw.permutation(feed.next().lengths.astype(np.int64))  # A feed's batch is sorted by length.
        falling = np.sort(sizes)[::-1]
        ways = {
            "one after the other": (sizes, np.arange(len(sizes)) % ranks),
            "by length": (falling, balance(falling, ranks, even)),
        }
        for name, (lengths, seats) in ways.items():
            work = lengths * (1 + lengths / even)
            results[name].append((excess(np.bincount(seats, lengths, ranks)), excess(np.bincount(seats, work, ranks))))
    return {
        name: dict(zip(("tokens", "work"), np.mean(each, axis=0).tolist(), strict=True))
        for name, each in results.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokens_folder", metavar="TOKENS", type=Path)
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--tokens", type=int, default=4096, help="of a rank in a step")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--width", type=int, default=256, help="of the model")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "dealing.json")
    options = parser.parse_args()
    rows = {str(ranks): measure(options, ranks) for ranks in options.ranks}
    queries = {key: getattr(options, key) for key in ("ranks", "tokens", "length", "width", "steps")}
    options.out.write_text(json.dumps({**queries, "rows": rows}, indent=1) + "\n")
    for ranks, ways in rows.items():
        for name, row in ways.items():
            print(f"{ranks:>4s} ranks  {name:20s} {row['tokens']:.2%} of tokens, {row['work']:.2%} of work")


if __name__ == "__main__":
    main()
