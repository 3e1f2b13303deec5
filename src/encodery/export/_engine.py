"""What the exporters of graphs for other engines than PyTorch share: the files beside the graph, and its verification.

The folder has the graph, the tokenizer and postprocess.safetensors (what the post-processing steps were fitted to); the
manifest has the limits, the encoder's digest and how texts become embeddings, so that serving needs no PyTorch.
Shapes: N texts, K dimension of an embedding.
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
from encodery.encoders.loading import encoder_name
from encodery.encoders.packing import pack_sequences
from encodery.encoders.pooling.cls import CLS
from encodery.encoders.pooling.mean import Mean
from encodery.export import Exporter
from encodery.export._verify import SENTENCES
from encodery.finetune.imported import head_kind
from encodery.model.load import LoadedModel, copy_tokenizer
from encodery.model.shape import Batch
from encodery.runtimes.batch import Limits
from encodery.runtimes.engine import InferenceEngine
from encodery.runtimes.onnx_graph import encoder_digest, require_exportable
from encodery.runtimes.packed_encoder import original_model

Weights = Literal["float32", "int8"]
FLOAT32_MIN_MEAN_COSINE, FLOAT32_MIN_COSINE = 0.99999, 0.9999
"""Mean and minimum of the cosines to the model's own embeddings that an export in float32 must reach."""
MIN_MEAN_COSINE, MIN_COSINE = 0.997, 0.993
"""The same for 8-bit weights, unless the user sets others."""
MIN_TEXTS, MAX_TEXTS = 40, 400
"""Texts that 8-bit weights need, and the largest sample; three of four are for calibration, one for the test."""
NEIGHBOURS = 10
BATCH_SIZE = 8


@dataclass(frozen=True)
class GraphExport:
    """An export that was checked and is not written yet.

    `calibration_texts` are for 8-bit weights, `test_texts` for the comparison with the model.
    """

    loaded: LoadedModel
    encoder: DenseEncoder
    weights: Weights
    calibration_texts: list[str]
    test_texts: list[str]

    @classmethod
    def of(cls, loaded: LoadedModel, weights: Weights, texts: str | None, target: str) -> GraphExport:
        """Check that a model can be exported to `target`.

        `texts` is a file, which 8-bit weights need. Raises `SettingsError` naming what the format cannot express, and
        `InputError` if there are too few texts.
        """
        name = encoder_name(loaded.settings)
        if name == "static":
            raise SettingsError(
                f"An export to {target} needs a model with layers; this one is static, a table of token embeddings. "
                "Export it with --format sentence_transformers."
            )
        require_exportable(loaded.model.settings, f"an export to {target}")
        if "task" in loaded.settings or name != "dense":
            raise SettingsError(
                f"An export to {target} needs a model of dense embeddings; this model's head would be lost."
            )
        if loaded.artifact is None and loaded.origin is not None and head_kind(loaded.origin.config) is not None:
            raise SettingsError(
                f"{loaded.path}: the head of {', '.join(loaded.origin.config['architectures'])} would be lost in an "
                f"export to {target}, which needs a model of dense embeddings. To export the encoder alone, write it "
                "first with --format hf head=false."
            )
        encoder = DenseEncoder.from_loaded(loaded, "cpu")
        # The original has the layers that are calibrated, and gives the embeddings that the export must reproduce.
        encoder.model = original_model(encoder.model)
        if encoder.settings.pooling not in (Mean(), CLS()) or encoder.settings.layers is not None:
            raise SettingsError(
                f"pooling = '{name_of(encoder.settings.pooling)}': an export to {target} supports mean (with special "
                "tokens) and cls, over all layers."
            )
        if weights == "int8" and texts is None:
            raise SettingsError(
                "weights = 'int8': needs texts = FILE with a few hundred texts like those that will be encoded, one "
                "per line or .jsonl, because the ranges of activations are measured on them."
            )
        sample = [] if texts is None else _sample(Path(texts))
        calibration = [text for number, text in enumerate(sample) if number % 4]
        return cls(loaded, encoder, weights, calibration, sample[::4] or _standard_texts(encoder))

    @property
    def limits(self) -> Limits:
        """The batches that the engine accepts."""
        return Limits.of(self.encoder.model.settings)

    def batches(self) -> Iterator[Batch]:
        """Yield the calibration texts, truncated, in small batches of similar length."""
        encoder = self.encoder
        sequences = [
            ids[: encoder.max_content_tokens] for ids in encoder.tokenizer.encode_batch(self.calibration_texts)
        ]
        sequences.sort(key=len)
        for start in range(0, len(sequences), BATCH_SIZE):
            batch = sequences[start : start + BATCH_SIZE]
            yield pack_sequences(batch, encoder.tokenizer.cls_id, encoder.tokenizer.sep_id)

    @contextlib.contextmanager
    def writing(self, exporter: Exporter, folder: Path, overwrite: bool) -> Iterator[Draft]:
        """Yield the draft of the folder, which has everything except the graph."""
        encoder, parent = self.encoder, self.loaded.artifact
        settings: dict[str, Any] = {"export": encode(exporter), "format": name_of(exporter)}
        settings["limits"] = dataclasses.asdict(self.limits)
        settings["encoder"] = encoder_digest(encoder.model)
        settings["dense"] = {**encode(encoder.settings), "max_length": encoder.max_length}
        parents = {"model": parent} if parent else None
        with create_artifact(folder, "export", settings, parents, overwrite=overwrite) as draft:
            if self.loaded.tokenizer_path is not None:
                copy_tokenizer(self.loaded.tokenizer_path, draft.path)
            encoder.postprocessing.save(draft.path / POSTPROCESS_FILE)
            yield draft

    def verify(self, draft: Draft, engine: InferenceEngine, min_mean_cosine: float, min_cosine: float) -> None:
        """Compare the engine's embeddings with the model's, and add the result to the draft's metrics.

        The two limits are those of 8-bit weights. Raises `ArtifactError` if the embeddings differ by more.
        """
        if self.weights == "float32":
            min_mean_cosine, min_cosine = FLOAT32_MIN_MEAN_COSINE, FLOAT32_MIN_COSINE
        exported = copy.copy(self.encoder)
        exported.engine = engine
        expected = _unit(self.encoder.encode(self.test_texts, truncate="right").vectors)
        actual = _unit(exported.encode(self.test_texts, truncate="right").vectors)  # Also the warm-up.
        start = time.perf_counter()
        exported.encode(self.test_texts, truncate="right")
        seconds = time.perf_counter() - start
        cosines = (expected * actual).sum(1)
        if not (cosines.mean() >= min_mean_cosine and cosines.min() >= min_cosine):
            raise ArtifactError(
                f"The export's vectors drift from the model's: over {len(self.test_texts)} texts the mean of their "
                f"cosines is {cosines.mean():.5f} and the minimum {cosines.min():.5f}; at least {min_mean_cosine} and "
                f"{min_cosine} are required. Nothing was written."
            )
        draft.metrics |= {"cosine_mean": float(cosines.mean()), "cosine_min": float(cosines.min())}
        if len(self.test_texts) > NEIGHBOURS:
            draft.metrics["top_10_overlap"] = _neighbour_overlap(expected, actual)
        size = sum(file.stat().st_size for file in draft.path.rglob("*") if file.is_file())
        draft.metrics |= {
            "texts": len(self.test_texts),
            "ms_per_text": 1e3 * seconds / len(self.test_texts),
            "megabytes": size / 1e6,
        }


def _sample(path: Path) -> list[str]:
    """A fixed sample of the texts in a file, in random order. Raises `InputError` if there are too few."""
    texts = [text for text in read_texts(path) if text.strip()]
    if len(texts) < MIN_TEXTS:
        raise InputError(f"{path}: has {len(texts)} texts, but 8-bit weights need at least {MIN_TEXTS}.")
    return random.Random(0).sample(texts, min(MAX_TEXTS, len(texts)))


def _standard_texts(encoder: DenseEncoder) -> list[str]:
    """Short texts, and one of the model's maximum length."""
    joined = " ".join(SENTENCES)
    count = len(encoder.tokenizer.encode(joined))
    return [*SENTENCES, " ".join([joined] * (encoder.max_content_tokens // max(count, 1) + 1))]


def _unit(vectors: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit


def _neighbour_overlap(expected: np.ndarray, actual: np.ndarray) -> float:
    """The mean fraction of a text's ten nearest neighbours that are so by both embeddings."""
    nearest = []
    for vectors in (expected, actual):
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, -np.inf)
        nearest.append(np.argsort(-cosines, axis=1)[:, :NEIGHBOURS])
    return float(np.mean([len(set(a) & set(b)) / NEIGHBOURS for a, b in zip(*nearest, strict=True)]))
