"""Texts made harder: a hidden span (Mirror-BERT, arXiv:2104.08027), tokens left out (TSDAE, arXiv:2104.06979).

Shapes: n tokens of a text, without its special ones.
"""

from __future__ import annotations

import numpy as np

Ids = np.ndarray


def mask_span(ids: Ids, mask_id: int, span: int, draw: np.random.Generator) -> Ids:
    """A run of `span` tokens becomes one [MASK]; a text of no more than `span` tokens stays as it is."""
    if len(ids) <= span:
        return ids
    start = int(draw.integers(len(ids) - span + 1))
    return np.concatenate([ids[:start], np.array([mask_id], ids.dtype), ids[start + span :]])


def delete_tokens(ids: Ids, rate: float, draw: np.random.Generator) -> Ids:
    """Each token goes with probability `rate`; of a text that had any, one stays."""
    kept = draw.random(len(ids)) >= rate
    if len(ids) and not kept.any():
        kept[draw.integers(len(ids))] = True
    return ids[kept]
