"""The encoder of the model that training starts from: its settings to train with, and its kind after training.

Dense embeddings and static ones are trained alike. A static model is a model of depth 0 whose hidden states are pooled
by a mean without special tokens, and it stays static unless the recipe changes that pooling.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from encodery.base.settings import decode, encode
from encodery.encoders import static, storage
from encodery.encoders.dense import DenseEncoder
from encodery.encoders.loading import encoder_name
from encodery.encoders.pooling import PoolingModule
from encodery.encoders.postprocessing import PostProcessing
from encodery.encoders.settings import STATIC_POOLING, DenseSettings, StaticSettings
from encodery.encoders.single_vector import SingleVectorEncoder
from encodery.encoders.static import StaticEncoder
from encodery.model.load import LoadedModel
from encodery.model.network import Model


def has_single_vectors(settings: Mapping[str, Any]) -> bool:
    """Return whether the settings stored with a model say how it gives one vector per text."""
    return storage.MODULE in settings or static.KEY in settings


def stored_dense_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the encoder settings stored with a model, those of a static model as dense ones; {} if there are none."""
    if static.KEY in settings:
        as_dense: dict[str, Any] = encode(decode(StaticSettings, settings[static.KEY], static.KEY).as_dense())
        return as_dense
    return dict(settings.get(storage.MODULE, {}))


def trained_encoder(
    source: LoadedModel, model: Model, settings: DenseSettings, postprocessing: PostProcessing, pooling: PoolingModule
) -> SingleVectorEncoder:
    """Return the encoder on the CPU of a model that was trained from `source`: static if that is and is still pooled in
    the same way, otherwise dense."""
    if encoder_name(source.settings) != static.KEY or settings.pooling != STATIC_POOLING:
        return DenseEncoder(model, source.tokenizer, settings, postprocessing, "cpu", pooling)
    own = StaticSettings(postprocess=settings.postprocess, max_length=settings.max_length, prompts=settings.prompts)
    return StaticEncoder(model, source.tokenizer, own, postprocessing, "cpu")
