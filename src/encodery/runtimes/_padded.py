"""What the engines that want padding share: the only place below the exports where any is made.

Sequences are sorted by length and dealt into groups of at most `batch_tokens` places. Where there are several groups,
each is run by one thread, as many at a time as there are threads; where there is one, all threads work on it. Texts of
one length lie in a group without any padding.
Shapes: T tokens, B sequences of a group, L the longest of them, H width.
"""

from __future__ import annotations

import abc
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from encodery.base import machine
from encodery.base.artifact import Artifact
from encodery.base.errors import ArtifactError, SettingsError
from encodery.base.parts import name_of
from encodery.runtimes import InferenceEngine, Runtime
from encodery.runtimes._checked import CheckedBatch, Limits

if TYPE_CHECKING:
    from encodery.model.network import Model

MIN_GROUP_TOKENS = 64  # Places of a group below which dealing costs more than a further thread brings.
GroupCallback = Callable[[np.ndarray, np.ndarray, np.ndarray], None]
"""Hidden states (B, L, H) of a group, the lengths (B,) and the numbers (B,) of its sequences."""


class PaddedEngine(InferenceEngine):
    """`threads` that work at once; `batch_tokens` places of a group, padding counted."""

    def __init__(self, limits: Limits, threads: int, batch_tokens: int) -> None:
        super().__init__(limits)
        self.threads, self.batch_tokens = threads, batch_tokens
        self._pool = ThreadPoolExecutor(threads)

    @abc.abstractmethod
    def forward_padded(self, inputs: dict[str, np.ndarray], concurrent: bool) -> np.ndarray:
        """input_ids, attention_mask, token_type_ids (B, L) int64 → hidden states (B, L, H) float32.

        `beside` others, by one thread; else by all. Called from several threads.
        """

    def hidden_states(self, batch: CheckedBatch) -> np.ndarray:
        """(T, H)."""
        found = np.empty((len(batch.ids), self.limits.width), np.float32)

        def take(block: np.ndarray, lengths: np.ndarray, numbers: np.ndarray) -> None:
            for row, length, number in zip(block, lengths, numbers, strict=True):
                start = batch.cu_seqlens[number]
                found[start : start + length] = row[:length]

        self._run(batch, take)
        return found

    def mean_pooled(self, batch: CheckedBatch) -> np.ndarray:
        """(sequences, H)."""
        found = np.empty((len(batch.cu_seqlens) - 1, self.limits.width), np.float32)

        def take(block: np.ndarray, lengths: np.ndarray, numbers: np.ndarray) -> None:
            real = np.arange(block.shape[1]) < lengths[:, None]
            found[numbers] = np.einsum("blh,bl->bh", block, (real / lengths[:, None]).astype(np.float32))

        self._run(batch, take)
        return found

    def first_token(self, batch: CheckedBatch) -> np.ndarray:
        """(sequences, H)."""
        found = np.empty((len(batch.cu_seqlens) - 1, self.limits.width), np.float32)

        def take(block: np.ndarray, lengths: np.ndarray, numbers: np.ndarray) -> None:
            found[numbers] = block[:, 0]

        self._run(batch, take)
        return found

    def _run(self, batch: CheckedBatch, take: GroupCallback) -> None:
        lengths = np.diff(batch.cu_seqlens).astype(np.int64)
        dealt = list(length_groups(lengths, self.batch_tokens, self.threads))

        def one(numbers: np.ndarray) -> None:
            take(self.forward_padded(pad_group(batch, lengths, numbers), len(dealt) > 1), lengths[numbers], numbers)

        if len(dealt) == 1 or self.threads == 1:
            for numbers in dealt:
                one(numbers)
        else:
            for _ in self._pool.map(one, dealt):
                pass


def length_groups(lengths: np.ndarray, budget: int, threads: int) -> Iterator[np.ndarray]:
    """Numbers of the sequences of each group, longest first; a single one may be longer than the budget.

    Where all would fit one group, they are dealt so that every thread has some.
    """
    budget = max(min(budget, -(-int(lengths.sum()) // threads)), MIN_GROUP_TOKENS)
    order = np.argsort(-lengths, kind="stable")
    start = 0
    for place in range(1, len(order)):
        if (place - start + 1) * lengths[order[start]] > budget:
            yield order[start:place]
            start = place
    yield order[start:]


def pad_group(batch: CheckedBatch, lengths: np.ndarray, numbers: np.ndarray) -> dict[str, np.ndarray]:
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


def open_export(folder: str | Path, layout: str) -> tuple[Artifact, Limits]:
    """An export of that layout, its files verified, and what it takes. Raises `ArtifactError` for another folder."""
    artifact = Artifact.open(folder, "export")
    settings: dict[str, Any] = artifact.manifest.settings
    if settings.get("format") != layout:
        raise ArtifactError(
            f"{folder}: is an export of layout '{settings.get('format')}'; '{layout}' is needed: "
            f"`encodery model export MODEL --format {layout} --out DIR`."
        )
    artifact.verify()
    return artifact, Limits(**settings["limits"])


@dataclass(frozen=True, kw_only=True)
class PaddedRuntime(Runtime):
    """A runtime that runs a graph from a file: what `encodery model export` wrote into `folder`, or one written anew in
    float32. `threads`: None for as many as the process may use; `batch_tokens` are computed at once by a thread."""

    folder: str | None = None
    threads: int | None = None
    batch_tokens: int = 512

    FILE: ClassVar[str]
    """Of the graph in an export."""

    def __post_init__(self) -> None:
        if self.threads is not None and not 1 <= self.threads <= 1024:
            raise SettingsError(f"threads = {self.threads}: must lie in 1 … 1024.")
        if self.batch_tokens < 1:
            raise SettingsError(f"batch_tokens = {self.batch_tokens}: must be positive.")

    @abc.abstractmethod
    def build_engine(self, file: Path, limits: Limits) -> InferenceEngine:
        """The engine of a graph, which need not stay in its file. An ONNX graph will do as well as the format's own."""

    def build(self, model: Model) -> InferenceEngine:
        from encodery.runtimes._onnx_graph import build_graph, encoder_digest

        if self.folder is None:
            written = build_graph(model).SerializeToString()
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "model.onnx"
                file.write_bytes(written)
                return self.build_engine(file, Limits.of(model.settings))
        artifact = Artifact.open(self.folder, "export")
        if artifact.manifest.settings.get("encoder") != encoder_digest(model):
            raise ArtifactError(f"{self.folder}: was exported from another model, or this one has changed since.")
        return self.open(self.folder)

    def open(self, folder: str | Path) -> InferenceEngine:
        """The engine of an export, without the model and without PyTorch."""
        artifact, limits = open_export(folder, name_of(self))
        return self.build_engine(artifact.path / self.FILE, limits)

    def num_threads(self) -> int:
        """Threads, counted."""
        return self.threads or machine.threads()
