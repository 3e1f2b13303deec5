"""Encodes a corpus with a tokenizer into a token store (`store.py`): one shard of ids for each shard of the corpus.

`tokenizers` encodes a batch on all threads and holds the interpreter for only a few percent of the time, so one process
uses some eight cores; beyond that, shards go to several processes. The draft folder survives a kill: the next run with
the same corpus and tokenizer keeps its finished shards (checked by SHA-256) and makes the others.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from encodery.base.artifact import Artifact, create_artifact
from encodery.base.errors import ArtifactError, EmptyInput, InputError
from encodery.base.machine import threads
from encodery.corpus.document import Document
from encodery.corpus.shards import read_documents, shard_paths
from encodery.tokens.related import DocumentGroups, group_of
from encodery.tokens.shards import ShardRecord, TokenShardWriter, finished_shard, id_dtype, index_split
from encodery.tokens.store import GROUPS, KIND, SPLITS, SpecialTokens, TokenStore
from encodery.tokens.tokenizer import Tokenizer
from encodery.tokens.up_to_date import up_to_date_artifact

CHARACTERS_AT_ONCE = 1 << 21
CORES_PER_PROCESS = 8

ProgressCallback = Callable[[str, int, int], None]


@dataclass(frozen=True)
class _Task:
    """One shard to make: all that a worker process needs."""

    corpus_shard: Path
    split: Path
    number: int
    tokenizer: Path
    dtype: str
    source: str
    group_by: str | None = None


def encode_corpus(
    corpus: str | Path,
    tokenizer: str | Path,
    out: str | Path,
    workers: int | None = None,
    overwrite: bool = False,
    on_progress: ProgressCallback | None = None,
    group_by: str | None = None,
) -> TokenStore:
    """Encode both splits of a corpus; if `out` holds exactly that already, nothing is done.

    Args:
        workers: the number of processes; by default one for each eight cores, this process if one is enough.
        overwrite: replace what is in `out`.
        on_progress: called as (split, finished shards, all shards) after each shard.
        group_by: a field of the documents' metadata: documents with the same value there are related.

    Raises `EmptyInput` if the corpus has no training text or, with `group_by`, no related documents; `ArtifactError`
    for a damaged corpus shard; `DiskFull`.
    """
    source = Artifact.open(corpus, "corpus")
    trained = Tokenizer.load(tokenizer)
    special_tokens = special_tokens_of(trained)
    dtype = id_dtype(trained.vocab_size)
    count = _num_workers(workers)
    if not any(shard_paths(corpus, "train")):
        raise EmptyInput(f"{corpus}: its training split holds no documents to encode.")
    parents = {"corpus": source, **_tokenizer_parent(tokenizer)}
    settings = {"dtype": dtype, "special_tokens": asdict(special_tokens), "tokenizer": trained.fingerprint}
    settings |= {} if group_by is None else {"group_by": group_by}
    if not overwrite and up_to_date_artifact(out, KIND, settings, parents):
        return TokenStore.open(out)
    with create_artifact(out, KIND, settings, parents, overwrite=overwrite, keep_draft=True) as draft:
        started = time.perf_counter()
        trained.save(draft.path / "tokenizer")
        for name in SPLITS:
            tasks = list(_tasks(source, name, draft.path, trained.fingerprint, dtype, group_by))
            _clear(draft.path / name, {f"{task.number:05d}" for task in tasks})
            records = _run(tasks, count, on_progress or _no_progress)
            draft.metrics[name] = index_split(draft.path / name, records)
        if not draft.metrics["train"]["tokens"]:
            raise EmptyInput(f"{corpus}: its training split holds no tokens.")
        if group_by is not None:
            _check_related(draft.path / "train" / GROUPS, corpus, group_by)
        draft.metrics["seconds"] = round(time.perf_counter() - started, 2)
    return TokenStore.open(out)


def special_tokens_of(tokenizer: Tokenizer) -> SpecialTokens:
    """Return the special tokens that a store records. Raises `InputError` if the tokenizer lacks one."""
    return SpecialTokens(
        pad_id=tokenizer.pad_id,
        unk_id=tokenizer.unk_id,
        cls_id=tokenizer.cls_id,
        sep_id=tokenizer.sep_id,
        mask_id=tokenizer.mask_id,
        vocab_size=tokenizer.vocab_size,
    )


def _tasks(
    corpus: Artifact, split: str, draft: Path, fingerprint: str, dtype: str, group_by: str | None
) -> Iterator[_Task]:
    for number, path in enumerate(shard_paths(corpus.path, split)):
        name = str(path.relative_to(corpus.path))
        entry = corpus.manifest.files.get(name)
        if entry is None:
            raise ArtifactError(f"{path}: is not in the corpus's manifest.")
        source = f"{fingerprint}/{name}/{entry['sha256']}" + ("" if group_by is None else f"/{group_by}")
        yield _Task(path, draft / split, number, draft / "tokenizer", dtype, source, group_by)


def _check_related(groups: Path, corpus: str | Path, group_by: str) -> None:
    """Raise `EmptyInput` if no two documents have the same group."""
    if DocumentGroups(np.load(groups, allow_pickle=False)).count:
        return
    first = next(read_documents(shard_paths(corpus, "train")))
    raise EmptyInput(
        f"{corpus}: no two training documents have the same '{group_by}' in their metadata. The first document has "
        f"{', '.join(sorted(first.metadata)) or 'none'}."
    )


def _clear(split: Path, shard_names: set[str]) -> None:
    """Remove what an earlier run on another corpus left in the draft."""
    for file in split.rglob("*") if split.is_dir() else ():
        if file.is_file() and file.name.split(".")[0] not in shard_names:
            file.unlink()


def _no_progress(split: str, done: int, total: int) -> None:
    """Reports nothing."""


def _run(tasks: list[_Task], workers: int, on_progress: ProgressCallback) -> list[ShardRecord]:
    records: dict[int, ShardRecord] = {}
    for task in tasks:
        if (record := finished_shard(task.split, task.number, task.dtype, task.source)) is not None:
            records[task.number] = record
            on_progress(task.split.name, len(records), len(tasks))
    missing = [task for task in tasks if task.number not in records]
    if min(workers, len(missing)) <= 1:
        for task in missing:
            records[task.number] = _make(task)
            on_progress(task.split.name, len(records), len(tasks))
    else:
        with ProcessPoolExecutor(min(workers, len(missing)), multiprocessing.get_context("spawn")) as pool:
            futures = {pool.submit(_make, task): task for task in missing}
            try:
                for future in as_completed(futures):
                    task = futures[future]
                    records[task.number] = future.result()
                    on_progress(task.split.name, len(records), len(tasks))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return [records[task.number] for task in tasks]


def _make(task: _Task) -> ShardRecord:
    tokenizer = Tokenizer.load(task.tokenizer)
    writer = TokenShardWriter(task.split, task.number, task.dtype, tokenizer.unk_id)
    documents = read_documents([task.corpus_shard])
    return writer.write(encode_texts(tokenizer, _texts(documents, task.group_by, writer.groups)), task.source)


def _texts(documents: Iterable[Document], group_by: str | None, groups: list[int]) -> Iterator[str]:
    """The text of each document, whose group is appended to `groups`."""
    for document in documents:
        if group_by is not None:
            groups.append(group_of(document, group_by))
        yield document.text


def encode_texts(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[tuple[npt.NDArray[np.uint32], int]]:
    """Yield (ids, UTF-8 bytes) of each text, without special tokens; some two million characters are in memory."""
    texts_held: list[str] = []
    size = 0
    for text in texts:
        texts_held.append(text)
        size += len(text)
        if size >= CHARACTERS_AT_ONCE:
            yield from _encode(tokenizer, texts_held)
            texts_held, size = [], 0
    yield from _encode(tokenizer, texts_held)


def _encode(tokenizer: Tokenizer, texts: list[str]) -> Iterator[tuple[npt.NDArray[np.uint32], int]]:
    for ids, text in zip(tokenizer.encode_batch(texts), texts, strict=True):
        yield ids, len(text.encode("utf-8", errors="replace"))


def _num_workers(workers: int | None) -> int:
    if workers is not None and workers < 1:
        raise InputError(f"workers = {workers}: must be at least 1.")
    return workers or max(threads() // CORES_PER_PROCESS, 1)


def _tokenizer_parent(folder: str | Path) -> dict[str, Artifact]:
    """The tokenizer as a parent, if it is an artifact and not a plain folder from elsewhere."""
    try:
        return {"tokenizer": Artifact.open(folder, ("tokenizer", "model", "tokens"))}
    except ArtifactError:
        if (Path(folder) / "manifest.json").is_file():
            raise
        return {}
