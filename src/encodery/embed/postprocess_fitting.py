"""An embedding finished by raw sentences alone: whitening or centring learnt from their vectors, nothing trained.

arXiv:2103.15316, arXiv:2104.01767 (whitening), arXiv:1702.01417 (all but the top). What is learnt is stored with the
model, so that all that loads it embeds alike. Shapes: N sentences, H width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from encodery.base.artifact import Artifact
from encodery.base.errors import EmptyInput, SettingsError
from encodery.base.machine import derive_seed
from encodery.base.settings import decode, decode_with_overrides, encode
from encodery.embed.data import EmbeddingExamples
from encodery.embed.heldout_metrics import EncodedVectors, compute_metrics
from encodery.encoders import storage
from encodery.encoders.dense import DenseEncoder
from encodery.encoders.loading import kind_of
from encodery.encoders.pooling import Pooling
from encodery.encoders.postprocess import PostProcess
from encodery.encoders.postprocessing import PostProcessing
from encodery.encoders.settings import DenseSettings
from encodery.model import golden
from encodery.model.load import LoadedModel, Provenance, save_model

SAMPLE = 20_000  # Sentences that are encoded, drawn from all.
PAIRS = 10_000  # of sentences, whose likeness is told.


def fit_postprocess(
    loaded: LoadedModel,
    texts: Iterable[str],
    folder: Path,
    over: Mapping[str, Any],
    prompt: str | None = None,
    truncate: str = "right",
    overwrite: bool = False,
) -> Artifact:
    """Write `loaded` into `folder` with the embedding settings `over` laid on its own, their finish steps fitted to a
    sample of the texts, which are read with the stored `prompt`.

    Figures: `sentences` of the sample, `dropped` tokens that were cut off, and the mean cosine of two sentences before
    and after: `alike_before`, `alike`. Raises `SettingsError` where nothing is to be learnt, or the pooling would have
    random weights; `EmptyInput` for fewer than two different sentences.
    """
    if kind_of(loaded.settings) != "dense":
        raise SettingsError(f"{loaded.path}: has no single vector a text, which finish steps are for.")
    own = decode(DenseSettings, loaded.settings.get("dense", {}), "dense")
    settings = decode_with_overrides(DenseSettings, loaded.settings.get("dense", {}), over, "dense")
    if all(type(step).fit is PostProcess.fit for step in settings.postprocess):
        raise SettingsError("finish: none of its steps learns from sentences; whiten and centre do.")
    plain = _unfinished(loaded, settings, own.pooling)
    sample = _sample(texts)
    found = plain.encode(sample, truncate=truncate, prompt=prompt)
    finishing = PostProcessing.fitted(settings.postprocess, found.vectors)
    model = loaded.model.to("cpu")
    whole = DenseEncoder(model, loaded.tokenizer, settings, finishing, "cpu", plain.pooling)
    kept = storage.module_tensors(whole.pooling, finishing)
    kept["golden"] = storage.golden_vectors(whole.pool_batch, golden.golden_outputs(model), whole.device)
    figures = {
        "sentences": len(sample),
        "dropped": int(found.dropped.sum()),
        "alike_before": _alike(found.vectors),
        "alike": _alike(finishing.apply(found.vectors)),
    }
    return save_model(
        folder,
        model,
        loaded.tokenizer_path,
        settings={**loaded.settings, "dense": encode(settings)},
        modules={**loaded.modules(), storage.MODULE: kept},
        provenance=Provenance.of(loaded, keep_origin=True),
        metrics=figures,
        overwrite=overwrite,
    )


def evaluate_examples(
    embedder: DenseEncoder, data: EmbeddingExamples, prompts: Sequence[str | None], truncate: str
) -> dict[str, float]:
    """The figures of examples whose columns (C) are read with these prompts, those that the embedder has, as in use."""
    prompts = [name if name in embedder.prompts else None for name in prompts]
    known: dict[tuple[str | None, str], int] = {}
    columns = zip(prompts, data.columns, strict=True)
    numbers = np.array([[known.setdefault((name, text), len(known)) for text in texts] for name, texts in columns]).T
    rows = np.zeros((len(known), embedder.dimension), np.float32)
    for name in dict.fromkeys(prompts):
        some = {text: number for (prompt, text), number in known.items() if prompt == name}
        rows[list(some.values())] = embedder.encode(list(some), truncate, prompt=name).vectors
    return compute_metrics(EncodedVectors(rows), numbers, data)


def _unfinished(loaded: LoadedModel, settings: DenseSettings, own: Pooling) -> DenseEncoder:
    """The embedder without its finish; the model's own pooling keeps the weights that it has there."""
    bare = dataclasses.replace(settings, postprocess=())
    if storage.is_stored(loaded) and own == settings.pooling:
        pooling = settings.pooling.build(loaded.model.settings.shape)
        pooling.load_state_dict(storage.pooling_state(loaded.module_state(storage.MODULE)))
        return DenseEncoder(loaded.model, loaded.tokenizer, bare, pooling=pooling)
    return DenseEncoder(loaded.model, loaded.tokenizer, bare)


def _sample(texts: Iterable[str]) -> list[str]:
    """At most `SAMPLE` of the texts that are not blank, each once; all are equally likely, and only they are held."""
    draw = np.random.default_rng(derive_seed(0, "finish"))
    kept: list[str] = []
    for number, text in enumerate(text for text in texts if text.strip()):
        if len(kept) < SAMPLE:
            kept.append(text)
        elif (place := int(draw.integers(number + 1))) < SAMPLE:
            kept[place] = text
    kept = list(dict.fromkeys(kept))
    if len(kept) < 2:
        raise EmptyInput("finish: learns from the vectors of different sentences, and there are fewer than two.")
    return kept


def _alike(vectors: np.ndarray) -> float:
    """Mean cosine of two different sentences drawn at random."""
    draw = np.random.default_rng(0)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    one = draw.integers(0, len(unit), PAIRS)
    other = (one + draw.integers(1, len(unit), PAIRS)) % len(unit)
    return float((unit[one] * unit[other]).sum(1).mean())
