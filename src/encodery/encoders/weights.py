"""One digest over the weights of an encoder, by which encoders that give equal embeddings are recognised."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from torch import Tensor


def weights_digest(tensors: Mapping[str, Tensor], seed: bytes = b"") -> str:
    """32 hex digits over `seed` and the names and values of the tensors."""
    digest = hashlib.sha256(seed)
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        values = tensor.detach().cpu()
        values = values.float() if values.is_floating_point() else values
        digest.update(np.ascontiguousarray(values.numpy()).data)
    return digest.hexdigest()[:32]
