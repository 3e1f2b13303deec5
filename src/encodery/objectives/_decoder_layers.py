"""The layers of an objective's own decoder, as a model that can be counted."""

from __future__ import annotations

import dataclasses
from typing import Any

from encodery.model.masks.document import DocumentMask
from encodery.model.settings import ModelSettings


def decoder_layers(model: ModelSettings, depth: int, **changes: Any) -> ModelSettings:
    """Return settings with `depth` layers of the model's sizes that reach everything; for counting."""
    return dataclasses.replace(model, depth=depth, layers=(), layer_groups=(), mask=DocumentMask(), **changes)
