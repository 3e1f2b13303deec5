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
    "embed train pairs.jsonl --model run --recipe base --out embedder",
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
    """Write labelled and raw data of each kind, a file per kind."""
    rng = random.Random(1)
    texts = [sentence(rng) for _ in range(80)]
    labels = ["outside" if "river" in text or "mountain" in text else "inside" for text in texts]
    write_table(folder / "classify.csv", ["text", "label"], list(zip(texts, labels, strict=True)))
    pairs = [(text, sentence(rng)) for text in texts]
    labelled = [(*pair, label) for pair, label in zip(pairs, labels, strict=True)]
    write_table(folder / "pair.csv", ["text_a", "text_b", "label"], labelled)
    write_table(folder / "sts.csv", ["sentence1", "sentence2", "score"], [(*p, n % 6) for n, p in enumerate(pairs)])
    write_table(folder / "rank.csv", ["query", "text", "label"], [(a, b, n % 2) for n, (a, b) in enumerate(pairs)])
    halves = [(a, a.split(" when ")[0], b.split(" when ")[0]) for a, b in pairs]
    write_lines(folder / "pairs.jsonl", [{"anchor": a, "positive": b} for a, b, _ in halves])
    write_lines(folder / "triples.jsonl", [{"anchor": a, "positive": b, "negative": c} for a, b, c in halves])
    scored = [{"anchor": a, "positive": b, "negatives": [c], "scores": [5.0, 1.0]} for a, b, c in halves]
    write_lines(folder / "scored.jsonl", scored)
    (folder / "sentences.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    write_lines(folder / "documents.jsonl", [{"text": " ".join(texts[n : n + 8])} for n in range(0, 72, 4)])
    write_words(folder, texts)
    write_questions(folder, texts)
    write_retrieval(folder / "beir", halves)
    write_languages(folder)


def write_words(folder: Path, texts: list[str]) -> None:
    """Write texts with tags of words, spans, sets of labels and words to add to a vocabulary."""
    tagged, spans, sets = [], [], []
    for text in texts:
        words = text.rstrip(".").replace(",", " ,").split()
        tagged.append({"tokens": words, "tags": ["B-THING" if word in THINGS else "O" for word in words]})
        found = [(text.index(f" {word}") + 1, word) for word in THINGS if f" {word}" in text]
        marked = [{"start": at, "end": at + len(word), "label": "thing"} for at, word in found]
        spans.append({"text": text, "spans": marked, "types": ["thing", "person"]})
        sets.append({"text": text, "labels": sorted({word for _, word in found})[:2]})
    write_lines(folder / "tags.jsonl", tagged)
    write_lines(folder / "spans.jsonl", spans)
    write_lines(folder / "multilabel.jsonl", sets)
    (folder / "words.txt").write_text("captaincy\nmountaineer\nriverside\n", encoding="utf-8")
    (folder / "dictionary.txt").write_text("".join(f"{word}\t{word}\n" for word in THINGS), encoding="utf-8")


def write_questions(folder: Path, texts: list[str]) -> None:
    """Write questions about a context, with several answers, with a gap, and pairs of a good and a bad sentence."""
    answered, chosen, gaps, minimal = [], [], [], []
    for number, text in enumerate(texts):
        thing = next(word for word in THINGS if f" {word}" in text)
        answer = {"text": [thing], "answer_start": [text.index(f" {thing}") + 1]} if number % 4 else {}
        empty = {"text": [], "answer_start": []}
        answered.append({"question": f"What was there, number {number}?", "context": text, "answers": answer or empty})
        chosen.append({"question": text, "choices": [f"the {thing}", "nothing at all"], "label": 0})
        gaps.append({"prompt": f"The [MASK] was there, {number}.", "answers": [THINGS[number % 5]], "relation": "there"})
        minimal.append({"good": text, "bad": " ".join(reversed(text.split())), "kind": "order"})
    write_lines(folder / "questions.jsonl", answered)
    write_lines(folder / "choices.jsonl", chosen)
    write_lines(folder / "facts.jsonl", gaps)
    write_lines(folder / "minimal_pairs.jsonl", minimal)


def write_retrieval(folder: Path, halves: list[tuple[str, str, str]]) -> None:
    """Write a BEIR folder: each sentence is to find its first half."""
    (folder / "qrels").mkdir(parents=True)
    write_lines(folder / "corpus.jsonl", [{"_id": f"d{n}", "text": b} for n, (_, b, _) in enumerate(halves)])
    write_lines(folder / "queries.jsonl", [{"_id": f"q{n}", "text": a} for n, (a, _, _) in enumerate(halves)])
    lines = ["query-id\tcorpus-id\tscore", *(f"q{n}\td{n}\t1" for n in range(len(halves)))]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


LANGUAGES = {
    "german": "Der Turm der alten Kirche steht auf dem Hügel {n}, und man sieht ihn in der ganzen Stadt.",
    "spanish": "La torre de la iglesia está en la colina {n}, y se ve desde toda la ciudad.",
    "polish": "Wieża starego kościoła stoi na wzgórzu {n} i widać ją z całego miasta.",
    "slovak": "Veža starého kostola stojí na kopci {n} a vidno ju z celého mesta.",
    "romanian": "Turnul bisericii este pe dealul {n} și se vede din tot orașul.",
    "maltese": "It-torri tal-knisja qiegħed fuq l-għolja {n}, u jidher mill-belt kollha.",
    "tunisian": "البرج متاع الكنيسة فوق الربوة {n} و يتشاف من المدينة الكل",
    "marathi": "चर्चचा मनोरा टेकडी {n} वर आहे आणि तो संपूर्ण शहरातून दिसतो.",
    "chinese": "教堂的塔在第{n}座山上,从全城都能看见它。",
    "biomedical": "The kinase inhibitor {n} reduced tumour growth in mice and lowered expression of the receptor.",
    "code_questions": "How do I reset the branch to commit {n} in git without losing my local changes?",
    "urls": "https://login{n}.example-bank.com/account/verify?session={n}&user=admin",
    "articles": "We propose a method for problem {n} and show that the estimator is consistent under mild assumptions.",
}


def write_languages(folder: Path) -> None:
    """Write for each language and domain a folder of texts and a file of labelled texts."""
    for name, template in LANGUAGES.items():
        (folder / name).mkdir()
        texts = [template.format(n=number * 7 % 101) for number in range(240)]
        for number in range(0, 240, 8):
            path = folder / name / f"{number}.txt"
            path.write_text("\n".join(texts[number : number + 8]) + "\n", encoding="utf-8")
        rows = [(text, "high" if number % 2 else "low") for number, text in enumerate(texts[:80])]
        write_table(folder / f"{name}.csv", ["text", "label"], rows)


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
