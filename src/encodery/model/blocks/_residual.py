"""The residual sum of a sublayer's output and its input."""

from __future__ import annotations

from torch import Tensor


def add_residual(added: Tensor, x: Tensor) -> Tensor:
    """Return added + x, in the wider dtype of the two, so that under autocast the residual stream stays in fp32.

    If the dtypes are equal the sum is written into `added`, which must not be used elsewhere.
    """
    return added.add_(x) if added.dtype == x.dtype else x + added
