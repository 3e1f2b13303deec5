"""Noise in the tokens of a text: a masked span (Mirror-BERT, arXiv:2104.08027), deleted tokens (TSDAE,
arXiv:2104.06979). Shapes: n tokens of a text, without its special ones.
"""

from __future__ import annotations

import numpy as np

Ids = np.ndarray


def mask_span(ids: Ids, mask_id: int, span: int, draw: np.random.Generator) -> Ids:
    """Replace a random run of `span` tokens by one [MASK]; a text of at most `span` tokens is returned unchanged."""
    if len(ids) <= span:
        return ids
    start = int(draw.integers(len(ids) - span + 1))
    return np.concatenate([ids[:start], np.array([mask_id], ids.dtype), ids[start + span :]])


def delete_tokens(ids: Ids, rate: float, draw: np.random.Generator) -> Ids:
    """Delete each token with probability `rate`; at least one token is kept."""
    kept = draw.random(len(ids)) >= rate
    if len(ids) and not kept.any():
        kept[draw.integers(len(ids))] = True
    return ids[kept]
