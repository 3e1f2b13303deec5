"""Small runs for tests: a token store with learnable structure, and recipes of a few thousand parameters."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encodery.base.artifact import create_artifact
from encodery.base.run_log import read_log
from encodery.base.settings import decode, merge_tables
from encodery.tokens.shards import TokenShardWriter, id_dtype, index_split
from encodery.tokens.store import SpecialTokens, TokenStore
from encodery.tokens.tokenizer import Tokenizer
from encodery.train.loop import Loop
from encodery.train.pretrain import pretrain_recipe
from encodery.train.pretrain_settings import PretrainSettings
from encodery.train.recipe import Recipe

VOCAB, RING = 192, 40
Run = Callable[..., subprocess.Popen[str]]


def _tokenizer() -> Tokenizer:
    import tokenizers
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    inner = tokenizers.Tokenizer(
        WordLevel({n: i for i, n in enumerate(names + [f"w{i}" for i in range(VOCAB - 5)])}, unk_token="[UNK]")
    )
    inner.pre_tokenizer = Whitespace()
    inner.add_special_tokens(names)
    return Tokenizer(inner)


def _documents(count: int, seed: int) -> list[np.ndarray[Any, Any]]:
    """Random walks on a ring of tokens: each token predicts its neighbours well."""
    rng = np.random.default_rng(seed)
    documents = []
    for length in rng.integers(6, 90, count):
        steps = rng.integers(1, 4, length)
        documents.append((5 + (rng.integers(RING) + steps.cumsum()) % RING).astype(np.uint32))
    return documents


def make_store(folder: Path, documents: int = 120) -> Path:
    """A store of `documents` training documents and 24 held-out ones, each three of them related."""
    tokenizer = _tokenizer()
    specials = SpecialTokens(pad_id=0, unk_id=1, cls_id=2, sep_id=3, mask_id=4, vocab_size=tokenizer.vocab_size)
    dtype = id_dtype(VOCAB)
    with create_artifact(folder, "tokens", {"dtype": dtype, "special_tokens": asdict(specials)}) as draft:
        for name, part in (("train", _documents(documents, 1)), ("heldout", _documents(24, 2))):
            writer = TokenShardWriter(draft.path / name, 0, dtype, specials.unk_id)
            writer.groups += [number // 3 for number in range(len(part))]
            note = writer.write([(ids, 4 * len(ids)) for ids in part], "made up")
            draft.metrics[name] = index_split(draft.path / name, [note])
        tokenizer.save(draft.path / "tokenizer")
    return folder


SMALL: dict[str, Any] = {
    "model": {"width": 16, "depth": 1, "heads": 2, "intermediate_size": 32, "max_length": 32},
    "feed": {"max_length": 32},
    "optim": {"is": "adamw", "lr": 0.01},
    "train": {
        "budget": "12steps",
        "batch_tokens": 256,
        "micro_batch_tokens": 256,
        "precision": "fp32",
        "threads": 1,
        "eval_tokens": 200,
        "eval_time_fraction": 0.5,
        "evals": 3,
        "checkpoint_every": "4steps",
    },
}


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store") / "tokens")


@pytest.fixture
def other_store(tmp_path: Path) -> Path:
    """A store with fewer documents."""
    return make_store(tmp_path / "other", documents=50)


@pytest.fixture
def table(store: Path) -> Callable[..., Recipe[PretrainSettings]]:
    """`table(train={...}, ...)`: the recipe of a small run with some settings replaced."""

    def make(**over: Any) -> Recipe[PretrainSettings]:
        opened = TokenStore.open(store)
        settings = decode(PretrainSettings, merge_tables(SMALL, over)).with_vocab_size(opened.special_tokens.vocab_size)
        return pretrain_recipe(settings, opened, "test")

    return make


@pytest.fixture
def losses() -> Callable[[Path], dict[int, float]]:
    """`losses(run)`: the loss of every step in the log of a run; fails if a step was logged twice."""

    def read(run: Path) -> dict[int, float]:
        lines = [line for line in read_log(run / "log.jsonl") if "loss" in line]
        assert len({line["step"] for line in lines}) == len(lines)
        return {line["step"]: line["loss"] for line in lines}

    return read


@pytest.fixture
def spawn(tmp_path: Path) -> Run:
    """`spawn(code)`: start another Python process that runs `code`, with its output captured."""

    def run(code: str, *prefix: str) -> subprocess.Popen[str]:
        script = tmp_path / "script.py"
        script.write_text(code, encoding="utf-8")
        command = [sys.executable, *prefix, str(script)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    return run


@pytest.fixture
def power_cut(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], AbstractContextManager[None]]:
    """`with power_cut(7): start(...)`: the run fails after seven steps."""

    @contextmanager
    def cut(at: int) -> Iterator[None]:
        step = Loop._step

        def torn(loop: Loop, elapsed: float) -> None:
            if loop.clock.step == at:
                raise KeyError("power cut")
            step(loop, elapsed)

        with monkeypatch.context() as patch, pytest.raises(KeyError, match="power cut"):
            patch.setattr(Loop, "_step", torn)
            yield

    return cut
