"""A digest of weights: whether two models, or a model and what was made of it, have the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def weights_digest(*states: Mapping[str, Tensor], prefix: bytes = b"") -> str:
    """Return 32 hexadecimal digits of the SHA-256 over `prefix` and the tensors of each state, in order of name.

    Values count as float32; names and values are covered, shapes only by way of `prefix`.
    """
    digest = hashlib.sha256(prefix)
    for state in states:
        for name, tensor in sorted(state.items()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(tensor.detach().to("cpu", torch.float32).numpy()).data)
    return digest.hexdigest()[:32]
