"""What the exports for engines other than PyTorch share: what is written beside the graph, and how it is judged.

The folder holds the graph, the tokenizer and finish.safetensors (what the finish steps have learnt); the manifest tells
the limits, the encoder's digest and how texts become vectors, so that nothing of PyTorch is needed to serve it.
Shapes: N texts, K width of a vector.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from encodery.base.artifact import Draft, create_artifact
from encodery.base.errors import ArtifactError, InputError, SettingsError
from encodery.base.parts import name_of
from encodery.base.settings import encode
from encodery.encoders.dense import DenseEncoder
from encodery.encoders.exported import POSTPROCESS_FILE
from encodery.encoders.files import read_texts
from encodery.encoders.loading import kind_of
from encodery.encoders.packing import pack_sequences
from encodery.encoders.pooling.cls import CLS
from encodery.encoders.pooling.mean import Mean
from encodery.export import Exporter
from encodery.export._verify import SENTENCES
from encodery.model.load import LoadedModel, copy_tokenizer
from encodery.model.shape import Batch
from encodery.runtimes.batch import Limits
from encodery.runtimes.engine import InferenceEngine
from encodery.runtimes.onnx_graph import encoder_digest, require_exportable
from encodery.runtimes.packed_encoder import original_model

Weights = Literal["float32", "int8"]
FLOAT_MEAN, FLOAT_LEAST = 0.99999, 0.9999
"""Cosines to the model's own vectors, mean and least, that an export in float32 must reach."""
MIN_MEAN_COSINE, MIN_COSINE = 0.997, 0.993
"""The same for 8-bit weights, unless the user says otherwise."""
FEWEST, MOST = 40, 400
"""Texts that 8-bit weights need, and are drawn at most; of four, three are for calibration and one for the check."""
NEIGHBOURS = 10
GROUP = 8


@dataclass(frozen=True)
class GraphExport:
    """What will be written: checked, nothing done yet. `seen`: texts to calibrate with; `held`: others, for the check.

    Raises `SettingsError` naming what the format cannot hold, `InputError` for too few texts.
    """

    loaded: LoadedModel
    embedder: DenseEncoder
    weights: Weights
    seen: list[str]
    held: list[str]

    @classmethod
    def of(cls, loaded: LoadedModel, weights: Weights, texts: str | None, door: str) -> GraphExport:
        """`texts`: a file, needed for 8-bit weights."""
        require_exportable(loaded.model.settings, f"an export to {door}")
        if "task" in loaded.settings or kind_of(loaded.settings) != "dense":
            raise SettingsError(f"An export to {door} holds a model of embeddings; this head would be left behind.")
        embedder = DenseEncoder.from_loaded(loaded, "cpu")
        embedder.model = original_model(embedder.model)  # Whose layers are watched, and whose vectors are the measure.
        if embedder.settings.pooling not in (Mean(), CLS()) or embedder.settings.layers is not None:
            raise SettingsError(
                f"pooling = '{name_of(embedder.settings.pooling)}': an export to {door} has mean (with special tokens) "
                "and cls, over all layers."
            )
        if weights == "int8" and texts is None:
            raise SettingsError(
                "weights = 'int8': needs texts = FILE, a few hundred texts like those that will be encoded, one a line "
                "or .jsonl: activations are measured on them."
            )
        drawn = [] if texts is None else _drawn(Path(texts))
        return cls(loaded, embedder, weights, [t for n, t in enumerate(drawn) if n % 4], drawn[::4] or _some(embedder))

    @property
    def limits(self) -> Limits:
        """What the engine takes."""
        return Limits.of(self.embedder.model.settings)

    def batches(self) -> Iterator[Batch]:
        """The texts to calibrate with, cut on the right, a few of like length at a time."""
        embedder = self.embedder
        ids = [row[: embedder.max_content_tokens] for row in embedder.tokenizer.encode_batch(self.seen)]
        ids.sort(key=len)
        for start in range(0, len(ids), GROUP):
            yield pack_sequences(ids[start : start + GROUP], embedder.tokenizer.cls_id, embedder.tokenizer.sep_id)

    @contextlib.contextmanager
    def writing(self, exporter: Exporter, folder: Path, overwrite: bool) -> Iterator[Draft]:
        """The folder in the making, with all but the graph in it."""
        embedder, parent = self.embedder, self.loaded.artifact
        settings: dict[str, Any] = {"export": encode(exporter), "format": name_of(exporter)}
        settings["limits"] = dataclasses.asdict(self.limits)
        settings["encoder"] = encoder_digest(embedder.model)
        settings["dense"] = {**encode(embedder.settings), "max_length": embedder.max_length}
        with create_artifact(
            folder, "export", settings, {"model": parent} if parent else None, overwrite=overwrite
        ) as draft:
            if self.loaded.tokenizer_path is not None:
                copy_tokenizer(self.loaded.tokenizer_path, draft.path)
            embedder.postprocessing.save(draft.path / POSTPROCESS_FILE)
            yield draft

    def judge(self, draft: Draft, engine: InferenceEngine, mean: float, least: float) -> None:
        """Figures of an engine against the model. Raises `ArtifactError` where its vectors drift beyond the bounds."""
        if self.weights == "float32":
            mean, least = FLOAT_MEAN, FLOAT_LEAST
        ran = copy.copy(self.embedder)
        ran.engine = engine
        expected = _unit(self.embedder.encode(self.held, truncate="right").vectors)
        found = _unit(ran.encode(self.held, truncate="right").vectors)  # Also the warm-up.
        begun = time.perf_counter()
        ran.encode(self.held, truncate="right")
        seconds = time.perf_counter() - begun
        cosines = (expected * found).sum(1)
        if not (cosines.mean() >= mean and cosines.min() >= least):
            raise ArtifactError(
                f"The export's vectors drift from the model's: over {len(self.held)} texts their cosines are "
                f"{cosines.mean():.5f} in the mean and {cosines.min():.5f} at least; {mean} and {least} are asked. "
                "Nothing was written."
            )
        draft.metrics |= {"cosine_mean": float(cosines.mean()), "cosine_least": float(cosines.min())}
        if len(self.held) > NEIGHBOURS:
            draft.metrics["top_10_overlap"] = _overlap(expected, found)
        size = sum(file.stat().st_size for file in draft.path.rglob("*") if file.is_file())
        draft.metrics |= {"texts": len(self.held), "ms_a_text": 1e3 * seconds / len(self.held), "megabytes": size / 1e6}


def _drawn(path: Path) -> list[str]:
    """A fixed sample, in random order. Raises `InputError` for too few."""
    found = [text for text in read_texts(path) if text.strip()]
    if len(found) < FEWEST:
        raise InputError(f"{path}: has {len(found)} texts, 8-bit weights need at least {FEWEST}.")
    return random.Random(0).sample(found, min(MOST, len(found)))


def _some(embedder: DenseEncoder) -> list[str]:
    """Short texts, and one that fills the model."""
    once = " ".join(SENTENCES)
    count = len(embedder.tokenizer.encode(once))
    return [*SENTENCES, " ".join([once] * (embedder.max_content_tokens // max(count, 1) + 1))]


def _unit(vectors: np.ndarray) -> np.ndarray:
    found: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return found


def _overlap(expected: np.ndarray, found: np.ndarray) -> float:
    """How many of a text's ten nearest are so by both, in the mean."""
    tops = []
    for vectors in (expected, found):
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, -np.inf)
        tops.append(np.argsort(-cosines, axis=1)[:, :NEIGHBOURS])
    return float(np.mean([len(set(a) & set(b)) / NEIGHBOURS for a, b in zip(*tops, strict=True)]))
