"""What a sublayer costs: operations and memory."""

from __future__ import annotations

from typing import NamedTuple


class Cost(NamedTuple):
    """The cost of a sublayer per token, on average over a sequence.

    `flops`: floating-point operations of the forward pass, in matrix products only (two per multiply-add). `kept`:
    numbers that the forward pass keeps for the backward pass.
    """

    flops: float
    kept: float
