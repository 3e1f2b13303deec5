"""The weights of one attention head, and patterns that can be loaded into them.

Shapes: D head size, H width, E embedding size.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class OffsetPattern:
    """Makes a head attend at a fixed offset: `weights` (2, D, E) of query and key, or `biases` (2, D)."""

    weights: Tensor | None = None
    biases: Tensor | None = None


@dataclass(frozen=True)
class HeadWeights:
    """The weights of one attention head, as views of the module's parameters.

    `query`, `key` and `value` are (D, H), `out` is (H, D), the biases are (D,) or None.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor
    query_bias: Tensor | None = None
    key_bias: Tensor | None = None

    def load_offset_pattern(self, pattern: OffsetPattern) -> bool:
        """Overwrite query and key in place, so that the head attends at a fixed offset.

        Return False, and change nothing, if the pattern needs biases and the head has none.
        """
        if pattern.biases is not None:
            if self.query_bias is None or self.key_bias is None:
                return False
            self.query_bias.copy_(pattern.biases[0])
            self.key_bias.copy_(pattern.biases[1])
        if pattern.weights is not None:
            self.query.copy_(pattern.weights[0])
            self.key.copy_(pattern.weights[1])
        return True
