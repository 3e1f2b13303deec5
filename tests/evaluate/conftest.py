"""A small finished run with all its ancestors: corpus, tokenizer, token store, model and log. Made once per session."""

from __future__ import annotations

import gzip
import json
import math
import random
from pathlib import Path

import pytest

from encodery.base.artifact import Artifact, create_artifact, seal
from encodery.base.run_log import RunLog

HOSTILE = "<script>alert('x')</script> & <img src=x onerror=alert(1)>"
NOUNS = ["river", "mountain", "window", "garden", "captain", "letter", "summer", "winter", "morning", "village"]
VERBS = ["watched", "crossed", "painted", "followed", "remembered", "answered", "carried", "opened"]


def _text(rng: random.Random) -> str:
    sentences = [
        "The old {} {} the quiet {} near {}.".format(*map(rng.choice, (NOUNS, VERBS, NOUNS, NOUNS))) for _ in range(6)
    ]
    return " ".join(sentences[:3]) + "\n\n" + " ".join(sentences[3:])


def _corpus(folder: Path) -> Artifact:
    rng = random.Random(0)
    report = {
        "input": {"files": 3, "bytes": 50_000, "problems": {"binary": 1}},
        "dropped": {"filter length": {"too short": {"documents": 7, "bytes": 900}}, HOSTILE: {}},
        "licenses": {"CC0-1.0": {"documents": 150, "bytes": 40_000}, HOSTILE: {"documents": 10, "bytes": 10}},
        "sources": {"stories": {"documents": 160, "bytes": 40_010}},
        "sample": [{"text": HOSTILE}],
    }
    with create_artifact(folder, "corpus", {"note": HOSTILE}) as draft:
        total = {}
        for split, count in (("train", 120), ("heldout", 320)):
            (draft.path / split).mkdir()
            texts = [_text(rng) for _ in range(count)]
            texts[0] = f"{HOSTILE} is in this long sentence as the captain {HOSTILE}. " + texts[0]
            with gzip.open(draft.path / split / "00000.jsonl.gz", "wt", encoding="utf-8") as file:
                for number, text in enumerate(texts):
                    file.write(json.dumps({"id": f"{split}{number}", "text": text, "metadata": {}}) + "\n")
            total[split] = sum(len(text.encode()) for text in texts)
        (draft.path / "report.json").write_text(json.dumps(report))
        draft.metrics.update(
            documents=440, bytes=sum(total.values()), heldout_documents=320, heldout_bytes=total["heldout"]
        )
    return Artifact.open(folder)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with an untrained model and an invented log."""
    from encodery.base.settings import encode
    from encodery.model.load import Provenance, save_model
    from encodery.model.network import build_model
    from encodery.model.settings import ModelSettings
    from encodery.tokens.encode import encode_corpus
    from encodery.tokens.train import TokenizerSettings, train_tokenizer

    home = tmp_path_factory.mktemp("run")
    _corpus(home / "corpus")
    train_tokenizer(home / "corpus", home / "tokenizer", TokenizerSettings(vocab_size=512))
    store = encode_corpus(home / "corpus", home / "tokenizer", home / "tokens", workers=1)
    settings = ModelSettings(width=32, depth=1, heads=2, vocab_size=store.special_tokens.vocab_size, max_length=64)
    folder = home / "first run"
    folder.mkdir()
    recipe = {"model": encode(settings), "train": {"budget": "10s", "note": HOSTILE}}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    with RunLog(folder / "log.jsonl") as log:
        for step in range(1, 101):
            line = {"step": step, "tokens": step * 1000, "loss": 6 - step / 50, "lr": 1e-3, "mask_rate": 0.15}
            line |= {"grad_norm": 1.0, "tokens_per_s": 9000 + step, "elapsed": step / 10}
            if step % 20 == 0:
                line |= {"heldout_loss": 6 - step / 60, "heldout_accuracy": step / 500, "bits_per_byte": 2.5}
            log.write(**line)
    metrics = {
        "heldout_loss": math.log(40),
        "heldout_accuracy": 0.2,
        "bits_per_byte": 2.25,
        "parameters": 30_000,
        "machine": {"device": f"A processor {HOSTILE}", "threads": 2, "memory": 8 * 2**30},
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    save_model(
        folder / "model",
        build_model(settings, 0),
        home / "tokens" / "tokenizer",
        provenance=Provenance({"tokens": store.artifact}),
    )
    seal(folder, "run", recipe, {"tokens": store.artifact}, metrics)
    return folder
