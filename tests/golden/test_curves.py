"""Golden losses: a refactoring must not change what is learned, not in the last bit.

`curves.json` holds the loss of every step of three small runs. Floating-point sums depend on the processor, on torch
and on the number of threads, so the curves are kept by a key of these: on a machine whose key is known they must be
equal bit for bit, on any other they must agree with the first ones to `TOLERANCE` (rounding grows over the steps).

A change that is meant to change them: `python tests/golden/test_curves.py --write`, and say why in the commit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from tokenizers.models import WordLevel

from encodery.base import machine
from encodery.base.artifact import create_artifact
from encodery.base.run_log import read_log
from encodery.base.settings import decode, merge_tables
from encodery.tokens.shards import TokenShardWriter, index_split
from encodery.tokens.shuffle import hash_under_key, scale_hashes
from encodery.tokens.store import SpecialTokens, TokenStore
from encodery.tokens.tokenizer import Tokenizer
from encodery.train.launch import start
from encodery.train.pretrain import pretrain_recipe
from encodery.train.pretrain_settings import PretrainSettings

CURVES = Path(__file__).with_name("curves.json")
TOLERANCE = 1e-4
VOCAB, WORDS = 256, 60

BASE: dict[str, Any] = {
    "model": {"width": 32, "depth": 2, "heads": 2, "intermediate_size": 64, "max_length": 48},
    "feed": {"max_length": 48},
    "optim": {"is": "adamw", "lr": 0.005},
    "train": {
        "budget": "24steps",
        "batch_tokens": 512,
        "micro_batch_tokens": 256,
        "precision": "fp32",
        "threads": 1,
        "evals": 0,
        "seed": 7,
    },
}
RUNS: dict[str, dict[str, Any]] = {
    "post-norm, learned positions, mlp": {},
    "pre-norm, rotary, glu, windows, ramps": {
        "model": {
            "positions": "rotary",
            "ffn": {"is": "glu", "bias": False, "bias_out": False},
            "norm": {"is": "rms"},
            "mask": {"is": "alternating", "size": 8, "every": 2},
            "block": {"is": "pre", "first_norm": False},
        },
        "objective": {"is": "mlm", "corruption": {"is": "span", "rate": "0.30 -> 0.15 linear"}, "z_loss": 1e-4},
        "optim": {"is": "stable_adamw", "lr": 0.01},
        "train": {
            "batch_tokens": "256 -> 768 linear",
            "seq_len_schedule": "16 -> 48 linear",
            "lr_schedule": "wsd(warmup=10%)",
        },
    },
    "dropout, alibi, muon, average": {
        "model": {"dropout": 0.1, "positions": "alibi", "attention": {"is": "full", "dropout": 0.1}},
        "optim": {"is": "muon", "lr": 0.01},
        "hooks": [{"is": "ema", "decay": 0.9}],
    },
}


def key() -> str:
    """What the last bits depend on: processor and its instructions, torch, threads."""
    flags = hashlib.sha256(" ".join(sorted(machine.cpu_flags())).encode()).hexdigest()[:8]
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{machine.cpu_name()} {flags} {capability}, torch {torch.__version__}, 1 thread"


def _documents(count: int, seed: int) -> list[np.ndarray[Any, Any]]:
    """Walks on a ring of words, from a hash and not from numpy's generators, whose streams may change."""
    documents = []
    for number in range(count):
        length = 8 + int(scale_hashes(hash_under_key(np.array([number]), seed), 100)[0])
        steps = 1 + scale_hashes(hash_under_key(np.arange(length), seed + number + 1), 3)
        documents.append((5 + (number + steps.cumsum()) % WORDS).astype(np.uint32))
    return documents


def _store(folder: Path) -> TokenStore:
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(VOCAB - 5))]
    inner = tokenizers.Tokenizer(WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    inner.add_special_tokens(names[:5])
    specials = SpecialTokens(pad_id=0, unk_id=1, cls_id=2, sep_id=3, mask_id=4, vocab_size=VOCAB)
    with create_artifact(folder, "tokens", {"dtype": "uint16", "special_tokens": asdict(specials)}) as draft:
        for name, count, seed in (("train", 60, 1000), ("heldout", 10, 5000)):
            writer = TokenShardWriter(draft.path / name, 0, "uint16", specials.unk_id)
            note = writer.write([(ids, 4 * len(ids)) for ids in _documents(count, seed)], "made up")
            draft.metrics[name] = index_split(draft.path / name, [note])
        Tokenizer(inner).save(draft.path / "tokenizer")
    return TokenStore.open(folder)


def curve(name: str, folder: Path) -> list[float]:
    """The loss of every step of a run."""
    before = torch.get_num_threads()
    store = _store(folder / "tokens")
    settings = decode(PretrainSettings, merge_tables(BASE, RUNS[name])).with_vocab_size(VOCAB)
    try:
        start(pretrain_recipe(settings, store), folder / "run")
    finally:
        torch.set_num_threads(before)
    return [line["loss"] for line in read_log(folder / "run/log.jsonl") if "loss" in line]


@pytest.mark.parametrize("name", list(RUNS))
def test_losses_are_as_ever(name: str, tmp_path: Path) -> None:
    known: dict[str, dict[str, list[float]]] = json.loads(CURVES.read_text(encoding="utf-8"))
    losses = curve(name, tmp_path)
    if key() in known:
        assert losses == known[key()][name]
    else:
        assert losses == pytest.approx(next(iter(known.values()))[name], rel=TOLERANCE)


def main() -> None:
    """Write the curves of this machine; those of other machines go when any of them changed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", required=True)
    parser.parse_args()
    known = json.loads(CURVES.read_text(encoding="utf-8")) if CURVES.is_file() else {}
    made = {}
    for name in RUNS:
        with tempfile.TemporaryDirectory() as folder:
            made[name] = curve(name, Path(folder))
    changed = key() in known and known[key()] != made
    kept = {} if changed else known
    CURVES.write_text(json.dumps({**kept, key(): made}, indent=1) + "\n", encoding="utf-8")
    print(f"{key()}: {'changed' if changed else 'written'}")


if __name__ == "__main__":
    main()
