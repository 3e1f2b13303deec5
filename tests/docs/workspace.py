"""A folder of small inputs in which the commands of the cards are run: texts, tokens, models and labelled data.

The names are those that a card uses: `corpus`, `tokenizer`, `tokens` (with `other_tokenizer`, `other_tokens`), the
pre-trained models `run`, `other` (the same sizes from another seed) and `small` (narrower), the fine-tuned models
`classifier` and `embedder`, the index `index`, and the files of `write_data`.
"""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

THINGS = ["river", "mountain", "window", "garden", "captain", "letter", "summer", "winter", "village", "teacher"]
DEEDS = ["crossed", "painted", "followed", "remembered", "answered", "carried", "opened", "watched"]
MANNERS = ["slowly", "in the morning", "without a word", "for the last time", "with great care", "once more"]
SIZES = ["model.width=32", "model.depth=2", "model.heads=2", "model.intermediate_size=64"]
BUDGET = [
    "train.batch_tokens=1024",
    "train.eval_tokens=512",
    "train.evals=1",
    "train.threads=1",
    "train.precision=fp32",
]
STEPS = 12

SETUP = (
    "corpus build texts --out corpus --workers 1",
    "tokens train corpus --out tokenizer vocab_size=512",
    "tokens encode corpus --tokenizer tokenizer --out tokens --workers 1",
    "tokens train corpus --out other_tokenizer vocab_size=400",
    "tokens encode corpus --tokenizer other_tokenizer --out other_tokens --workers 1",
    "pretrain tokens --recipe demo --out run",
    "pretrain tokens --recipe demo --out other train.seed=1",
    "pretrain tokens --recipe demo --out small model.width=16 model.intermediate_size=32",
    "finetune classify classify.csv --model run --out classifier",
    "embed train pairs.jsonl --model run --recipe sentences --out embedder",
    "search index corpus --model run --out index",
)


def sentence(rng: random.Random) -> str:
    return (
        f"The {rng.choice(THINGS)} and the {rng.choice(THINGS)} were there when the {rng.choice(THINGS)} "
        f"{rng.choice(DEEDS)} the {rng.choice(THINGS)} {rng.choice(MANNERS)}, number {rng.randrange(10_000)}."
    )


def write_texts(folder: Path) -> None:
    """Write 60 documents of 12 sentences."""
    rng = random.Random(0)
    folder.mkdir()
    for number in range(60):
        (folder / f"{number}.txt").write_text(" ".join(sentence(rng) for _ in range(12)), encoding="utf-8")


def write_table(path: Path, header: list[str], rows: list[tuple[Any, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_data(folder: Path) -> None:
    """Write labelled and raw data of each kind."""
    rng = random.Random(1)
    texts = [sentence(rng) for _ in range(80)]
    labels = ["outside" if "river" in text or "mountain" in text else "inside" for text in texts]
    write_table(folder / "classify.csv", ["text", "label"], list(zip(texts, labels, strict=True)))
    pairs = [(text, sentence(rng)) for text in texts]
    write_table(
        folder / "pair.csv", ["text_a", "text_b", "label"], [(*p, lb) for p, lb in zip(pairs, labels, strict=True)]
    )
    write_table(folder / "sts.csv", ["sentence1", "sentence2", "score"], [(*p, n % 6) for n, p in enumerate(pairs)])
    write_lines(folder / "pairs.jsonl", [{"anchor": a, "positive": a.split(" when ")[0]} for a, _ in pairs])
    write_lines(
        folder / "triples.jsonl", [{"anchor": a, "positive": a.split(" when ")[0], "negative": b} for a, b in pairs]
    )
    (folder / "sentences.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")


def shrunk(arguments: list[str]) -> list[str]:
    """The command with a model and a budget for a test; sizes that the command sets stay."""
    names = {argument.split("=")[0] for argument in arguments}
    if arguments[0] == "pretrain":
        resized = any(name.startswith("init_from") for name in names)
        sizes = [] if resized else [setting for setting in SIZES if setting.split("=")[0] not in names]
        kept = [argument for argument in arguments if argument.split("=")[0] not in {s.split("=")[0] for s in BUDGET}]
        if "--budget" in kept:
            del kept[kept.index("--budget") : kept.index("--budget") + 2]
        return [*kept, *sizes, *BUDGET, "--budget", f"{STEPS}steps"]
    if arguments[0] == "finetune" or arguments[:2] == ["embed", "train"]:
        small = ["epochs=1", "train.threads=1", "train.precision=fp32"]
        return [*arguments, *(setting for setting in small if setting.split("=")[0] not in names)]
    if arguments[:2] in (["corpus", "build"], ["tokens", "encode"]) and "--workers" not in arguments:
        return [*arguments, "--workers", "1"]
    return arguments
