"""A static model distilled from an encoder: one vector for each token, and a text is the mean of its tokens' vectors.

The encoder reads each token of its vocabulary alone; principal components reduce the vectors to `dimension`; and each
vector is weighted by the rarity of its token (smooth inverse frequency, Arora et al. 2017; the recipe of Model2Vec).
The result is a model artifact of depth 0 that `static.py` encodes with; embedding, search and training accept it like
any other. Word order is lost, for a model that costs little more than its tokenizer.
Shapes: V vocabulary, H width of the teacher, K dimension.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from encodery.base.artifact import Artifact
from encodery.base.errors import SettingsError
from encodery.base.settings import encode
from encodery.encoders.loading import load_dense
from encodery.encoders.settings import StaticSettings
from encodery.encoders.single_vector import SingleVectorEncoder
from encodery.encoders.static import StaticEncoder
from encodery.model.load import LoadedModel, Provenance, save_model
from encodery.model.network import Model
from encodery.model.positions.none import NoPositions
from encodery.model.settings import ModelSettings
from encodery.tokens.tokenizer import Tokenizer
from encodery.tokens.windows import batches_by_length

AT_ONCE = 4096  # Tokens of the vocabulary, or texts, that are processed together.
MAX_LENGTH = 1 << 16  # Without attention nothing limits the length; this many tokens are read at once.


@dataclass(frozen=True, kw_only=True)
class StaticDistillationSettings:
    """`dimension` K, at most the teacher's. `sif_coefficient`: a in the weight a / (a + p) of a token of probability
    p; 0 gives all tokens the same weight."""

    dimension: int = 256
    sif_coefficient: float = 1e-4

    def __post_init__(self) -> None:
        if self.dimension < 1 or self.sif_coefficient < 0:
            raise SettingsError(
                f"dimension = {self.dimension}, sif_coefficient = {self.sif_coefficient}: must be at least 1 and at "
                "least 0."
            )


def distill_static(
    loaded: LoadedModel,
    folder: Path,
    settings: StaticDistillationSettings | None = None,
    texts: Iterable[str] | None = None,
    overwrite: bool = False,
) -> Artifact:
    """Write the static model of an encoder of dense embeddings into `folder`.

    The tokens of `texts` are counted for their probabilities. Without `texts` they follow from the order of the
    vocabulary, which lists frequent tokens first (Zipf: probability ~ 1 / rank).
    """
    settings = settings or StaticDistillationSettings()
    teacher = load_dense(loaded)
    tokenizer = loaded.tokenizer
    vocab_size = loaded.model.settings.vocab_size
    vectors = np.zeros((vocab_size, min(settings.dimension, teacher.dimension)), np.float32)
    used = np.array(sorted(set(range(min(tokenizer.used_size, vocab_size))) - tokenizer.special_ids), np.int64)
    reduced, variance_kept = principal_components(_encode_tokens(teacher, used), vectors.shape[1])
    if settings.sif_coefficient:
        probabilities = _zipf(vocab_size) if texts is None else _counted(texts, tokenizer, vocab_size)
        weights = settings.sif_coefficient / (settings.sif_coefficient + probabilities[used])
    else:
        weights = np.ones(len(used))
    vectors[used] = reduced * weights[:, None]
    model = _static_model(vectors)
    stored = StaticEncoder(model, tokenizer, StaticSettings(prompts=dict(teacher.prompts)), device="cpu").stored()
    recipe: dict[str, Any] = {"job": "encoders.static_distillation", **encode(settings)}
    return save_model(
        folder,
        model,
        loaded.tokenizer_path,
        settings={**stored.settings, "recipe": recipe},
        modules=stored.modules,
        provenance=Provenance.of(loaded),
        metrics={"variance_kept": variance_kept},
        overwrite=overwrite,
    )


def principal_components(vectors: np.ndarray, dimension: int) -> tuple[np.ndarray, float]:
    """The strongest principal components (V, K) of centred vectors (V, H), and the fraction of variance they keep."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    values, directions = np.linalg.eigh(centred.T @ centred)
    order = np.argsort(-values)[:dimension]
    variance_kept = float(values[order].sum() / max(values.sum(), 1e-12))
    reduced: np.ndarray = (centred @ directions[:, order]).astype(np.float32)
    return reduced, variance_kept


def _encode_tokens(teacher: SingleVectorEncoder, ids: np.ndarray) -> np.ndarray:
    """The teacher's vectors (V, H), post-processed, of each token alone."""
    pooled = np.zeros((len(ids), teacher.model.settings.width), np.float32)
    with torch.inference_mode():
        for numbers in batches_by_length(np.full(len(ids), 3), 3 * AT_ONCE):
            pooled[numbers] = teacher.encode_windows([ids[i : i + 1] for i in numbers])
    return teacher.postprocessing.apply(pooled)


def _zipf(vocab_size: int) -> np.ndarray:
    """Token probabilities (V,) if the vocabulary is ordered by frequency."""
    inverse_ranks = 1 / np.arange(1, vocab_size + 1)
    probabilities: np.ndarray = inverse_ranks / inverse_ranks.sum()
    return probabilities


def _counted(texts: Iterable[str], tokenizer: Tokenizer, vocab_size: int) -> np.ndarray:
    """Token probabilities (V,) from counts, with one added to each count."""
    counts = np.ones(vocab_size)
    part: list[str] = []
    for text in texts:
        part.append(text)
        if len(part) == AT_ONCE:
            counts += _token_counts(part, tokenizer, vocab_size)
            part = []
    if part:
        counts += _token_counts(part, tokenizer, vocab_size)
    probabilities: np.ndarray = counts / counts.sum()
    return probabilities


def _token_counts(texts: list[str], tokenizer: Tokenizer, vocab_size: int) -> np.ndarray:
    ids = np.concatenate([np.zeros(0, np.uint32), *tokenizer.encode_batch(texts)])
    counts: np.ndarray = np.bincount(ids.astype(np.int64), minlength=vocab_size)
    return counts


def _static_model(vectors: np.ndarray) -> Model:
    """A model of depth 0 whose token embeddings are `vectors` (V, K)."""
    settings = ModelSettings(
        width=vectors.shape[1],
        depth=0,
        heads=1,
        vocab_size=len(vectors),
        max_length=MAX_LENGTH,
        embedding_norm=False,
        positions=NoPositions(),
        head=None,
    )
    model = Model(settings)
    with torch.no_grad():
        model.encoder.embeddings.token_embeddings.copy_(torch.from_numpy(vectors))
    return model.eval()
