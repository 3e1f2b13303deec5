"""The served model of static embeddings: no encoder runs, so nothing is shared with other models."""

from __future__ import annotations

from collections.abc import Sequence

from encodery.encoders.single_vector import SingleVectorEncoder
from encodery.serve.vector_model import VectorModel


class StaticModel(VectorModel):
    """One vector for each text, without hidden states of its tokens. Arguments as of `VectorModel`."""

    def __init__(self, encoder_model: SingleVectorEncoder, dims: Sequence[int] = (), truncate: str = "error") -> None:
        super().__init__(encoder_model, dims, truncate)
