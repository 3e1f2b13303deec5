"""Encoding a corpus: the content of the store, continuation after a kill, damage that is named, several processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import encodery.tokens.shards
from encodery.base.artifact import Artifact
from encodery.base.errors import ArtifactError, DiskFull, EmptyInput, InputError
from encodery.corpus.shards import read_documents, shard_paths
from encodery.tokens.encode import encode_corpus
from encodery.tokens.store import TokenSplit, TokenStore
from encodery.tokens.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def store(corpus: Path, tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    return encode_corpus(corpus, tokenizer_folder, tmp_path_factory.mktemp("encode") / "store")


def shard_hashes(folder: Path) -> dict[str, str]:
    files = Artifact.open(folder, "tokens").manifest.files
    return {name: entry["sha256"] for name, entry in files.items()}


def test_the_store_holds_each_document_as_its_ids(corpus: Path, store: TokenStore, tokenizer: Tokenizer) -> None:
    for name in ("train", "heldout"):
        split, documents = store.split(name), list(read_documents(shard_paths(corpus, name)))
        assert len(split) == len(documents) > 0
        for number, document in enumerate(documents):
            assert np.array_equal(split[number], tokenizer.encode(document.text))
        assert split.lengths.tolist() == [len(ids) for ids in split]
        assert split.tokens == split.lengths.sum()
        assert split.bytes == sum(len(document.text.encode()) for document in documents)
        assert np.array_equal(split[-1], split[len(split) - 1])
    with pytest.raises(IndexError):
        store.train[len(store.train)]
    with pytest.raises(InputError, match="Splits are train and heldout"):
        store.split("test")


def test_ids_take_two_bytes_and_the_tokenizer_is_copied(store: TokenStore, tokenizer: Tokenizer) -> None:
    assert store.dtype == "uint16"
    assert store.train[0].dtype == np.uint16
    assert len(store.train.shards) == 4
    size = sum(path.stat().st_size for path in (store.path / "train").glob("*.u16"))
    assert size == 2 * store.tokens
    assert store.tokenizer.fingerprint == tokenizer.fingerprint
    assert store.special_tokens.mask_id == tokenizer.mask_id
    assert set(store.artifact.manifest.parents) == {"corpus", "tokenizer"}
    assert not list(store.path.rglob("records"))


def test_a_large_vocabulary_takes_four_bytes(make_store: Callable[..., TokenStore], tmp_path: Path) -> None:
    store = make_store(tmp_path / "large", [100] * 3, vocab_size=70_000)
    assert store.dtype == "uint32"
    assert max(int(ids.max()) for ids in store.train) > 65535


def test_unknown_tokens_and_empty_documents_are_counted(
    make_corpus: Callable[..., Artifact], tokenizer_folder: Path, tmp_path: Path
) -> None:
    make_corpus(tmp_path / "c", ["the 北 statement", "", "the \U0001f642 \U0001f642"], [], shards=1)
    store = encode_corpus(tmp_path / "c", tokenizer_folder, tmp_path / "s")
    assert store.artifact.manifest.metrics["train"]["unknown"] == 3
    assert store.artifact.manifest.metrics["train"]["empty"] == 1
    assert store.train.lengths.tolist()[1] == 0
    assert len(store.train[1]) == 0
    assert len(store.heldout) == 0


def test_encoding_again_does_nothing_and_another_corpus_is_refused(
    corpus: Path, store: TokenStore, tokenizer_folder: Path, make_corpus: Callable[..., Artifact], tmp_path: Path
) -> None:
    before = (store.path / "manifest.json").stat().st_mtime_ns
    assert encode_corpus(corpus, tokenizer_folder, store.path).fingerprint == store.fingerprint
    assert (store.path / "manifest.json").stat().st_mtime_ns == before
    make_corpus(tmp_path / "other", ["other words"], [], shards=1)
    with pytest.raises(InputError, match="already exists"):
        encode_corpus(tmp_path / "other", tokenizer_folder, store.path)


@pytest.mark.slow
def test_processes_write_the_same_store(
    corpus: Path, store: TokenStore, tokenizer_folder: Path, tmp_path: Path
) -> None:
    encode_corpus(corpus, tokenizer_folder, tmp_path / "s", workers=2)
    assert shard_hashes(tmp_path / "s") == shard_hashes(store.path)


KILLED_RUN = """
import os, signal, sys
from encodery.tokens.encode import encode_corpus
def stop(split, finished, total):
    if (split, finished) == ("train", 2):
        os.kill(os.getpid(), signal.SIGKILL)
encode_corpus(*sys.argv[1:4], on_progress=stop)
"""


def test_a_killed_run_continues_with_its_finished_shards(
    corpus: Path, store: TokenStore, tokenizer_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "s"
    code = subprocess.run([sys.executable, "-c", KILLED_RUN, str(corpus), str(tokenizer_folder), str(out)]).returncode
    assert code == -signal.SIGKILL
    assert not out.exists()
    draft = tmp_path / ".s.draft"
    kept = {path.name: path.stat().st_ino for path in sorted((draft / "train").glob("*.u16"))}
    assert sorted(kept) == ["00000.u16", "00001.u16"]
    damaged = draft / "train" / "00001.u16"
    damaged.write_bytes(damaged.read_bytes()[:-2])
    (draft / "train" / ".00002.u16.draft").write_bytes(b"half")
    encode_corpus(corpus, tokenizer_folder, out)
    assert (out / "train" / "00000.u16").stat().st_ino == kept["00000.u16"]
    assert shard_hashes(out) == shard_hashes(store.path)


def test_another_corpus_uses_nothing_of_the_draft(
    make_corpus: Callable[..., Artifact], corpus: Path, store: TokenStore, tokenizer_folder: Path, tmp_path: Path
) -> None:
    make_corpus(tmp_path / "other", ["some other words entirely"] * 12, ["held"], shards=6)

    def stop(split: str, finished: int, total: int) -> None:
        if finished == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_corpus(tmp_path / "other", tokenizer_folder, tmp_path / "s", on_progress=stop)
    encode_corpus(corpus, tokenizer_folder, tmp_path / "s")
    assert shard_hashes(tmp_path / "s") == shard_hashes(store.path)


@pytest.fixture
def copy(corpus: Path, tokenizer_folder: Path, tmp_path: Path) -> Path:
    encode_corpus(corpus, tokenizer_folder, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_truncated_shard_is_refused_at_opening(copy: Path) -> None:
    shard = copy / "train" / "00002.u16"
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(ArtifactError, match=r"train/00002\.u16"):
        TokenStore.open(copy)


def test_a_changed_shard_is_refused_when_verified(copy: Path) -> None:
    shard = copy / "train" / "00001.u16"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    TokenStore.open(copy)
    with pytest.raises(ArtifactError, match=r"train/00001\.u16"):
        TokenStore.open(copy, verify=True)


def test_metrics_that_contradict_the_files_are_refused(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["metrics"]["train"]["documents"] += 1
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="in the manifest"):
        TokenStore.open(copy).split("train")


def test_a_damaged_corpus_shard_is_named_and_nothing_is_lost(
    make_corpus: Callable[..., Artifact], tokenizer_folder: Path, tmp_path: Path
) -> None:
    make_corpus(tmp_path / "c", ["some words"] * 6, [], shards=3)
    shard = tmp_path / "c" / "train" / "00001.jsonl"
    content = shard.read_bytes()
    shard.write_bytes(b'{"id": "x", "tex' + content[16:])
    with pytest.raises(ArtifactError, match=r"00001\.jsonl"):
        encode_corpus(tmp_path / "c", tokenizer_folder, tmp_path / "s")
    assert (tmp_path / ".s.draft" / "train" / "00000.u16").is_file()
    shard.write_bytes(content)
    assert len(encode_corpus(tmp_path / "c", tokenizer_folder, tmp_path / "s")) == 6


def test_a_full_disk_is_reported_and_the_next_run_continues(
    corpus: Path, store: TokenStore, tokenizer_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def full(number: int) -> None:
        calls.append(number)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(encodery.tokens.shards.os, "fsync", lambda number: full(number))
        with pytest.raises(DiskFull, match="no space left"):
            encode_corpus(corpus, tokenizer_folder, tmp_path / "s")
    assert not (tmp_path / "s").exists()
    encode_corpus(corpus, tokenizer_folder, tmp_path / "s")
    assert shard_hashes(tmp_path / "s") == shard_hashes(store.path)
    assert os.listdir(tmp_path) == ["s"]


def test_an_empty_corpus_is_refused(
    make_corpus: Callable[..., Artifact], corpus: Path, tokenizer_folder: Path, tmp_path: Path
) -> None:
    make_corpus(tmp_path / "none", [""], [], shards=1)
    with pytest.raises(EmptyInput, match="no tokens"):
        encode_corpus(tmp_path / "none", tokenizer_folder, tmp_path / "s")
    with pytest.raises(InputError, match="workers = 0"):
        encode_corpus(corpus, tokenizer_folder, tmp_path / "s", workers=0)
    with pytest.raises(ArtifactError, match="corpus"):
        encode_corpus(tokenizer_folder, tokenizer_folder, tmp_path / "s")


def test_a_split_without_documents_reads_as_empty(store: TokenStore) -> None:
    split = store.train
    assert isinstance(split, TokenSplit)
    assert len(split.read(0, 0)) == 0
