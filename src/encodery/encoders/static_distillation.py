"""A model without attention, distilled from one with: a vector for each token, a text is the mean of its tokens.

The encoder reads every token of its vocabulary alone; principal components cut the vectors to `width`, and each is
weighed by how rare its token is (smooth inverse frequency, Arora et al. 2017; the recipe of Model2Vec). What comes out
is an ordinary model artifact of depth 0, so embedding, search and training take it as any other. Much is lost, above
all word order, for a model that costs little more than its tokenizer.
Shapes: V vocabulary, H width of the teacher, K width.
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
from encodery.encoders.dense import DenseEncoder, pack_sequences
from encodery.encoders.pooling.mean import Mean
from encodery.encoders.settings import DenseSettings
from encodery.model.load import LoadedModel, Provenance, save_model
from encodery.model.network import Model
from encodery.model.positions.none import NoPositions
from encodery.model.settings import ModelSettings
from encodery.tokens.tokenizer import Tokenizer
from encodery.tokens.windows import batches_by_length

AT_ONCE = 4096  # Tokens of vocabulary or texts looked at together.
LONGEST = 1 << 16  # Without attention a text may be as long as one likes; this much is taken at once.


@dataclass(frozen=True, kw_only=True)
class StaticSettings:
    """`width` K, at most the teacher's. `rarity`: the a of a / (a + p) by which a token of probability p is weighed; 0
    weighs all alike."""

    dimension: int = 256
    sif_coefficient: float = 1e-4

    def __post_init__(self) -> None:
        if self.dimension < 1 or self.sif_coefficient < 0:
            raise SettingsError(
                f"width = {self.dimension}, rarity = {self.sif_coefficient}: must be positive, and not negative."
            )


def distill_static(
    loaded: LoadedModel,
    folder: Path,
    settings: StaticSettings | None = None,
    texts: Iterable[str] | None = None,
    overwrite: bool = False,
) -> Artifact:
    """Write the static model of an encoder's embedding into `folder`.

    `texts`, where given, are counted to know how rare the tokens are; else the vocabulary's order stands for it, as
    trained vocabularies begin with what is frequent (Zipf: probability ~ 1 / rank).
    """
    settings = settings or StaticSettings()
    teacher = DenseEncoder.from_loaded(loaded)
    tokenizer = loaded.tokenizer
    vocab = loaded.model.settings.vocab_size
    table = np.zeros((vocab, min(settings.dimension, teacher.dimension)), np.float32)
    used = np.array(sorted(set(range(min(tokenizer.used_size, vocab))) - tokenizer.special_ids), np.int64)
    reduced, kept = principal_components(_alone(teacher, used), table.shape[1])
    share = _counted(texts, tokenizer, vocab) if texts is not None else _by_rank(vocab)
    weights = (
        settings.sif_coefficient / (settings.sif_coefficient + share[used])
        if settings.sif_coefficient
        else np.ones(len(used))
    )
    table[used] = reduced * weights[:, None]
    model = _model(table)
    embed = DenseSettings(pooling=Mean(include_special_tokens=False), prompts=teacher.settings.prompts)
    made: dict[str, Any] = {"job": "static", **encode(settings)}
    return save_model(
        folder,
        model,
        loaded.tokenizer_path,
        settings={"dense": encode(embed), "recipe": made},
        provenance=Provenance.of(loaded),
        metrics={"variance_kept": kept},
        overwrite=overwrite,
    )


def principal_components(vectors: np.ndarray, width: int) -> tuple[np.ndarray, float]:
    """The `width` strongest principal components (V, K) of centred vectors (V, H), and their share of the variance."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    values, directions = np.linalg.eigh(centred.T @ centred)
    order = np.argsort(-values)[:width]
    kept = float(values[order].sum() / max(values.sum(), 1e-12))
    reduced: np.ndarray = (centred @ directions[:, order]).astype(np.float32)
    return reduced, kept


def _alone(teacher: DenseEncoder, ids: np.ndarray) -> np.ndarray:
    """The teacher's finished vectors (V, H) of each token by itself."""
    pooled = np.zeros((len(ids), teacher.model.settings.width), np.float32)
    first, last = teacher.tokenizer.cls_id, teacher.tokenizer.sep_id
    with torch.inference_mode():
        for some in batches_by_length(np.full(len(ids), 3), 3 * AT_ONCE):
            batch = pack_sequences([ids[i : i + 1] for i in some], first, last).to(teacher.device)
            pooled[some] = teacher.pool_batch(batch).float().cpu().numpy()
    return teacher.postprocessing.apply(pooled)


def _by_rank(vocab: int) -> np.ndarray:
    """(V,) probabilities if tokens stood in the order of their frequency."""
    share = 1 / np.arange(1, vocab + 1)
    whole: np.ndarray = share / share.sum()
    return whole


def _counted(texts: Iterable[str], tokenizer: Tokenizer, vocab: int) -> np.ndarray:
    """(V,) probabilities by count, one added to each."""
    counts = np.ones(vocab)
    some: list[str] = []
    for text in texts:
        some.append(text)
        if len(some) == AT_ONCE:
            counts += _count(some, tokenizer, vocab)
            some = []
    if some:
        counts += _count(some, tokenizer, vocab)
    share: np.ndarray = counts / counts.sum()
    return share


def _count(texts: list[str], tokenizer: Tokenizer, vocab: int) -> np.ndarray:
    ids = np.concatenate([np.zeros(0, np.uint32), *tokenizer.encode_batch(texts)])
    counts: np.ndarray = np.bincount(ids.astype(np.int64), minlength=vocab)
    return counts


def _model(table: np.ndarray) -> Model:
    """An encoder of depth 0 whose output is the table's rows."""
    settings = ModelSettings(
        width=table.shape[1],
        depth=0,
        heads=1,
        vocab_size=len(table),
        max_length=LONGEST,
        embedding_norm=False,
        positions=NoPositions(),
        head=None,
    )
    model = Model(settings)
    with torch.no_grad():
        model.encoder.embeddings.token_embeddings.copy_(torch.from_numpy(table))
    return model.eval()
