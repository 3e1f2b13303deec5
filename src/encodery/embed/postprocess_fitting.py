"""Fit postprocess steps of embeddings to raw sentences (whitening, centring); nothing is trained.

arXiv:2103.15316, arXiv:2104.01767 (whitening), arXiv:1702.01417 (all but the top). What is fitted is stored with the
model, so that every use of the model gives the same embeddings. Shapes: N sentences, C columns, H width.
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
from encodery.base.settings import decode, decode_with_overrides
from encodery.embed.examples import EmbeddingExamples
from encodery.embed.heldout_metrics import EncodedVectors, compute_metrics
from encodery.embed.source_encoder import stored_dense_settings, trained_encoder
from encodery.encoders import storage
from encodery.encoders.dense import DenseEncoder
from encodery.encoders.loading import encoder_name, kind_of
from encodery.encoders.pooling import Pooling
from encodery.encoders.postprocess import PostProcess
from encodery.encoders.postprocessing import PostProcessing
from encodery.encoders.settings import DenseSettings
from encodery.encoders.single_vector import SingleVectorEncoder
from encodery.model.load import LoadedModel, Provenance, save_model

SAMPLE_SENTENCES = 20_000  # that are encoded, drawn at random from all.
SAMPLE_PAIRS = 10_000  # of sentences, whose mean cosine is reported.


def fit_postprocess(
    loaded: LoadedModel,
    texts: Iterable[str],
    folder: Path,
    overrides: Mapping[str, Any],
    prompt: str | None = None,
    truncate: str = "right",
    overwrite: bool = False,
) -> Artifact:
    """Write a model to `folder` with postprocess steps that are fitted to a sample of the texts.

    Args:
        loaded: a model with one embedding per text.
        texts: raw sentences.
        folder: where the model is written.
        overrides: encoder settings that replace the model's own.
        prompt: name of the stored prompt of the sentences.
        truncate: what happens to sentences that are too long.
        overwrite: replace what is in the folder.

    Returns the artifact. Its metrics: `sentences` of the sample, `dropped` tokens that were cut off, and the mean
    cosine of two sentences, `mean_cosine_before` and `mean_cosine`. Raises `SettingsError` if no step is fitted, or if
    the pooling would have random weights; `EmptyInput` for fewer than two different sentences.
    """
    kind = kind_of(loaded.settings)
    if kind != SingleVectorEncoder.kind:
        raise SettingsError(f"{loaded.path}: gives {kind} embeddings; postprocess steps are for dense ones.")
    stored = stored_dense_settings(loaded.settings)
    settings = decode_with_overrides(DenseSettings, stored, overrides, storage.MODULE)
    if all(type(step).fit is PostProcess.fit for step in settings.postprocess):
        raise SettingsError("postprocess: none of its steps is fitted to sentences; whiten and centre are.")
    plain = _without_postprocess(loaded, settings, decode(DenseSettings, stored, storage.MODULE).pooling)
    sample = _sample(texts)
    embeddings = plain.encode(sample, truncate=truncate, prompt=prompt)
    steps = PostProcessing.fitted(settings.postprocess, embeddings.vectors)
    model = loaded.model.to("cpu")
    fitted = trained_encoder(loaded, model, settings, steps, plain.pooling).stored()
    replaced = encoder_name(loaded.settings)
    metrics = {
        "sentences": len(sample),
        "dropped": int(embeddings.dropped.sum()),
        "mean_cosine_before": _mean_cosine(embeddings.vectors),
        "mean_cosine": _mean_cosine(steps.apply(embeddings.vectors)),
    }
    return save_model(
        folder,
        model,
        loaded.tokenizer_path,
        settings={**_without(loaded.settings, replaced), **fitted.settings},
        modules={**_without(loaded.modules(), replaced), **fitted.modules},
        provenance=Provenance.of(loaded, keep_origin=True),
        metrics=metrics,
        overwrite=overwrite,
    )


def evaluate_examples(
    encoder: SingleVectorEncoder, data: EmbeddingExamples, prompts: Sequence[str | None], truncate: str
) -> dict[str, float]:
    """Return the metrics of examples, encoded as in use.

    Args:
        encoder: encodes the texts.
        data: the examples.
        prompts: name of the prompt of each column (C); names that the encoder does not have are ignored.
        truncate: what happens to texts that are too long.
    """
    prompts = [name if name in encoder.prompts else None for name in prompts]
    texts: dict[tuple[str | None, str], int] = {}
    columns = zip(prompts, data.columns, strict=True)
    indices = np.array([[texts.setdefault((name, text), len(texts)) for text in column] for name, column in columns]).T
    vectors = np.zeros((len(texts), encoder.dimension), np.float32)
    for name in dict.fromkeys(prompts):
        some = {text: index for (prompt, text), index in texts.items() if prompt == name}
        vectors[list(some.values())] = encoder.encode(list(some), truncate, prompt=name).vectors
    return compute_metrics(EncodedVectors(vectors), indices, data)


def _without_postprocess(loaded: LoadedModel, settings: DenseSettings, own: Pooling) -> DenseEncoder:
    """The encoder without postprocess steps; the model's own pooling has its stored weights."""
    settings = dataclasses.replace(settings, postprocess=())
    if storage.is_stored(loaded) and own == settings.pooling:
        pooling = settings.pooling.build(loaded.model.settings.shape)
        pooling.load_state_dict(storage.pooling_state(loaded.module_state(storage.MODULE)))
        return DenseEncoder(loaded.model, loaded.tokenizer, settings, pooling=pooling)
    return DenseEncoder(loaded.model, loaded.tokenizer, settings)


def _without(table: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key != name}


def _sample(texts: Iterable[str]) -> list[str]:
    """A random sample of the texts that are not blank, each once (reservoir sampling: only the sample is held)."""
    draw = np.random.default_rng(derive_seed(0, "finish"))  # Another tag: another sample.
    sample: list[str] = []
    for number, text in enumerate(text for text in texts if text.strip()):
        if len(sample) < SAMPLE_SENTENCES:
            sample.append(text)
        elif (place := int(draw.integers(number + 1))) < SAMPLE_SENTENCES:
            sample[place] = text
    sample = list(dict.fromkeys(sample))
    if len(sample) < 2:
        raise EmptyInput("postprocess: steps are fitted to different sentences, and there are fewer than two.")
    return sample


def _mean_cosine(vectors: np.ndarray) -> float:
    """Mean cosine of two different sentences drawn at random."""
    draw = np.random.default_rng(0)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    first = draw.integers(0, len(unit), SAMPLE_PAIRS)
    second = (first + draw.integers(1, len(unit), SAMPLE_PAIRS)) % len(unit)
    return float((unit[first] * unit[second]).sum(1).mean())
