"""Engines that need padding: the only place below the exports where padding is made.

Sequences are sorted by length and put into groups of at most `batch_tokens` positions. Several groups are run by one
thread each, as many at a time as there are threads; a single group is run by all threads. Texts of equal length are in
a group without any padding. Shapes: T tokens, B sequences of a group, L the longest of them, H width.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from encodery.base.artifact import Artifact
from encodery.base.errors import ArtifactError
from encodery.runtimes.batch import CheckedBatch, Limits
from encodery.runtimes.engine import InferenceEngine

MIN_GROUP_TOKENS = 64  # positions of a group below which a further thread costs more than it saves
GroupCallback = Callable[[np.ndarray, np.ndarray, np.ndarray], None]
"""Receives hidden states (B, L, H) of a group, and the lengths (B,) and indices (B,) of its sequences."""


class PaddedEngine(InferenceEngine):
    """An engine over padded groups. `threads` work at once; a group has at most `batch_tokens` positions, padding
    included."""

    def __init__(self, limits: Limits, threads: int, batch_tokens: int) -> None:
        super().__init__(limits)
        self.threads, self.batch_tokens = threads, batch_tokens
        self._pool = ThreadPoolExecutor(threads)

    @abc.abstractmethod
    def forward_padded(self, inputs: dict[str, np.ndarray], concurrent: bool) -> np.ndarray:
        """Run input_ids, attention_mask, token_type_ids (B, L) int64: hidden states (B, L, H) float32.

        `concurrent`: other groups run at the same time, so one thread is used; otherwise all are. Called from several
        threads.
        """

    def hidden_states(self, batch: CheckedBatch) -> np.ndarray:
        states = np.empty((len(batch.ids), self.limits.width), np.float32)

        def collect(block: np.ndarray, lengths: np.ndarray, indices: np.ndarray) -> None:
            for row, length, index in zip(block, lengths, indices, strict=True):
                start = batch.cu_seqlens[index]
                states[start : start + length] = row[:length]

        self._run(batch, collect)
        return states

    def mean_pooled(self, batch: CheckedBatch) -> np.ndarray:
        means = np.empty((len(batch.cu_seqlens) - 1, self.limits.width), np.float32)

        def collect(block: np.ndarray, lengths: np.ndarray, indices: np.ndarray) -> None:
            real = np.arange(block.shape[1]) < lengths[:, None]
            means[indices] = np.einsum("blh,bl->bh", block, (real / lengths[:, None]).astype(np.float32))

        self._run(batch, collect)
        return means

    def first_token(self, batch: CheckedBatch) -> np.ndarray:
        first = np.empty((len(batch.cu_seqlens) - 1, self.limits.width), np.float32)

        def collect(block: np.ndarray, lengths: np.ndarray, indices: np.ndarray) -> None:
            first[indices] = block[:, 0]

        self._run(batch, collect)
        return first

    def _run(self, batch: CheckedBatch, collect: GroupCallback) -> None:
        lengths = np.diff(batch.cu_seqlens).astype(np.int64)
        groups = list(length_groups(lengths, self.batch_tokens, self.threads))

        def run_group(indices: np.ndarray) -> None:
            states = self.forward_padded(pad_group(batch, lengths, indices), concurrent=len(groups) > 1)
            collect(states, lengths[indices], indices)

        if len(groups) == 1 or self.threads == 1:
            for indices in groups:
                run_group(indices)
        else:
            for _ in self._pool.map(run_group, groups):
                pass


def length_groups(lengths: np.ndarray, budget: int, threads: int) -> Iterator[np.ndarray]:
    """Yield the indices of the sequences of each group, longest first; a single sequence may exceed the budget.

    If all sequences would fit into fewer groups than there are threads, the budget is lowered to give each thread some.
    """
    budget = max(min(budget, -(-int(lengths.sum()) // threads)), MIN_GROUP_TOKENS)
    order = np.argsort(-lengths, kind="stable")
    start = 0
    for end in range(1, len(order)):
        if (end - start + 1) * lengths[order[start]] > budget:
            yield order[start:end]
            start = end
    yield order[start:]


def pad_group(batch: CheckedBatch, lengths: np.ndarray, indices: np.ndarray) -> dict[str, np.ndarray]:
    """Return a group's ids, mask and segments (B, L) int64, padded on the right with id 0, which is masked."""
    columns = np.arange(int(lengths[indices].max()))
    real = columns < lengths[indices][:, None]
    sources = (batch.cu_seqlens[:-1][indices].astype(np.int64)[:, None] + columns)[real]
    inputs = {"input_ids": np.zeros(real.shape, np.int64), "attention_mask": real.astype(np.int64)}
    inputs["input_ids"][real] = batch.ids[sources]
    inputs["token_type_ids"] = np.zeros(real.shape, np.int64)
    if batch.segment is not None:
        inputs["token_type_ids"][real] = batch.segment[sources]
    return inputs


def open_export(folder: str | Path, format: str) -> tuple[Artifact, Limits]:  # noqa: A002
    """Open an export of that format, verify its files, and return it with its limits.

    Raises `ArtifactError` for another folder.
    """
    artifact = Artifact.open(folder, "export")
    settings: dict[str, Any] = artifact.manifest.settings
    if settings.get("format") != format:
        raise ArtifactError(
            f"{folder}: is an export of format '{settings.get('format')}'; '{format}' is needed: "
            f"`encodery model export MODEL --format {format} --out DIR`."
        )
    artifact.verify()
    return artifact, Limits(**settings["limits"])
