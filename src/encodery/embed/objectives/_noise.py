"""Noise in the texts of a step. Shapes: B examples."""

from __future__ import annotations

import numpy as np

from encodery.embed.noise import mask_span
from encodery.embed.objective_context import ObjectiveContext
from encodery.embed.text_pool import TokenNoise


def span_noise(context: ObjectiveContext, examples: int, seed: int) -> TokenNoise | None:
    """Return the noise that masks a random span in every text of B examples but the anchors; None for none."""
    span, mask_id = context.random_span_mask, context.loaded.tokenizer.mask_id
    draw = np.random.default_rng(seed)

    def noise(place: int, ids: np.ndarray) -> np.ndarray:
        return mask_span(ids, mask_id, span, draw) if place >= examples else ids

    return noise if span else None
