"""What the engines that want padding share: the only place below the exports where any is made.

Sequences are sorted by length and dealt into groups of at most `batch_tokens` places. Where there are several groups,
each is run by one thread, as many at a time as there are threads; where there is one, all threads work on it. Texts of
one length lie in a group without any padding.
Shapes: T tokens, B sequences of a group, L the longest of them, H width.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from encodery.base.artifact import Artifact
from encodery.base.errors import ArtifactError, SettingsError
from encodery.runtimes import Engine
from encodery.runtimes._checked import Limits, Packed

if TYPE_CHECKING:
    from encodery.model.network import Model

SMALLEST = 64  # Places of a group below which dealing costs more than a further thread brings.
Taken = Callable[[np.ndarray, np.ndarray, np.ndarray], None]
"""Hidden states (B, L, H) of a group, the lengths (B,) and the numbers (B,) of its sequences."""


class PaddedEngine(Engine):
    """`threads` that work at once; `batch_tokens` places of a group, padding counted."""

    def __init__(self, limits: Limits, threads: int, batch_tokens: int) -> None:
        super().__init__(limits)
        self.threads, self.batch_tokens = threads, batch_tokens
        self._pool = ThreadPoolExecutor(threads)

    @abc.abstractmethod
    def answer(self, given: dict[str, np.ndarray], beside: bool) -> np.ndarray:
        """input_ids, attention_mask, token_type_ids (B, L) int64 → hidden states (B, L, H) float32.

        `beside` others, by one thread; else by all. Called from several threads.
        """

    def hidden(self, batch: Packed) -> np.ndarray:
        """(T, H)."""
        found = np.empty((len(batch.ids), self.limits.width), np.float32)

        def take(block: np.ndarray, lengths: np.ndarray, numbers: np.ndarray) -> None:
            for row, length, number in zip(block, lengths, numbers, strict=True):
                start = batch.cu_seqlens[number]
                found[start : start + length] = row[:length]

        self._run(batch, take)
        return found

    def mean(self, batch: Packed) -> np.ndarray:
        """(sequences, H)."""
        found = np.empty((len(batch.cu_seqlens) - 1, self.limits.width), np.float32)

        def take(block: np.ndarray, lengths: np.ndarray, numbers: np.ndarray) -> None:
            real = np.arange(block.shape[1]) < lengths[:, None]
            found[numbers] = np.einsum("blh,bl->bh", block, (real / lengths[:, None]).astype(np.float32))

        self._run(batch, take)
        return found

    def first(self, batch: Packed) -> np.ndarray:
        """(sequences, H)."""
        found = np.empty((len(batch.cu_seqlens) - 1, self.limits.width), np.float32)

        def take(block: np.ndarray, lengths: np.ndarray, numbers: np.ndarray) -> None:
            found[numbers] = block[:, 0]

        self._run(batch, take)
        return found

    def _run(self, batch: Packed, take: Taken) -> None:
        lengths = np.diff(batch.cu_seqlens).astype(np.int64)
        dealt = list(groups(lengths, self.batch_tokens, self.threads))

        def one(numbers: np.ndarray) -> None:
            take(self.answer(padded(batch, lengths, numbers), len(dealt) > 1), lengths[numbers], numbers)

        if len(dealt) == 1 or self.threads == 1:
            for numbers in dealt:
                one(numbers)
        else:
            for _ in self._pool.map(one, dealt):
                pass


def groups(lengths: np.ndarray, budget: int, threads: int) -> Iterator[np.ndarray]:
    """Numbers of the sequences of each group, longest first; a single one may be longer than the budget.

    Where all would fit one group, they are dealt so that every thread has some.
    """
    budget = max(min(budget, -(-int(lengths.sum()) // threads)), SMALLEST)
    order = np.argsort(-lengths, kind="stable")
    start = 0
    for place in range(1, len(order)):
        if (place - start + 1) * lengths[order[start]] > budget:
            yield order[start:place]
            start = place
    yield order[start:]


def padded(batch: Packed, lengths: np.ndarray, numbers: np.ndarray) -> dict[str, np.ndarray]:
    """A group's ids, mask and segments (B, L) int64, filled up on the right with id 0, masked."""
    places = np.arange(int(lengths[numbers].max()))
    real = places < lengths[numbers][:, None]
    where = (batch.cu_seqlens[:-1][numbers].astype(np.int64)[:, None] + places)[real]
    table = {"input_ids": np.zeros(real.shape, np.int64), "attention_mask": real.astype(np.int64)}
    table["input_ids"][real] = batch.ids[where]
    table["token_type_ids"] = np.zeros(real.shape, np.int64)
    if batch.segment is not None:
        table["token_type_ids"][real] = batch.segment[where]
    return table


def checked_settings(threads: int | None, batch_tokens: int) -> None:
    """Raises `SettingsError` for what cannot be."""
    if threads is not None and not 1 <= threads <= 1024:
        raise SettingsError(f"threads = {threads}: must lie in 1 … 1024.")
    if batch_tokens < 1:
        raise SettingsError(f"batch_tokens = {batch_tokens}: must be positive.")


def opened(folder: str | Path, layout: str) -> tuple[Artifact, Limits]:
    """An export of that layout, its files verified, and what it takes. Raises `ArtifactError` for another folder."""
    artifact = Artifact.open(folder, "export")
    settings: dict[str, Any] = artifact.manifest.settings
    if settings.get("layout") != layout:
        raise ArtifactError(
            f"{folder}: is an export of layout '{settings.get('layout')}'; '{layout}' is needed: "
            f"`encodery export {layout} MODEL DIR`."
        )
    artifact.verify()
    return artifact, Limits(**settings["limits"])


def of_model(folder: str | Path, layout: str, model: Model) -> None:
    """Raises `ArtifactError` unless the export was made of exactly this model."""
    from encodery.runtimes._onnx_graph import digest

    artifact = Artifact.open(folder, "export")
    if artifact.manifest.settings.get("encoder") != digest(model):
        raise ArtifactError(f"{folder}: was exported from another model, or this one has changed since.")
