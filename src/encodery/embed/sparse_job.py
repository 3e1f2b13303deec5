"""Training of learned sparse vectors: the job of embeddings with the masked-language-model head in place of pooling.

arXiv:2107.05720. Losses compare by dot product (`similarity = "dot"`) and are wrapped in `flops`, which keeps vectors
sparse. Shapes: B sequences, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from encodery.base.artifact import Artifact
from encodery.base.errors import SettingsError
from encodery.base.settings import encode
from encodery.embed.job import EmbedJob
from encodery.embed.pool import Pool
from encodery.embed.score import Compared, Vectors
from encodery.embed.sparse import KEY, SparseSettings, word_weights
from encodery.model.load import save_model
from encodery.model.shape import Batch


class SparseJob(EmbedJob):
    """See `EmbedJob`. Of the embedding settings only `max_length` and `prompts` count."""

    def head(self) -> nn.Module:
        """Nothing beside the model's own head, which is trained with it. Raises `SettingsError` where it has none."""
        if "mlm" not in self.model.heads:
            raise SettingsError("Sparse vectors are made by the masked-language-model head, and this model has none.")
        self.model.heads.requires_grad_(self.settings.adapt is None)
        return nn.Identity()

    def _vectors(self, batch: Batch, layers: list[int]) -> Tensor:
        """(B, 1, V)."""
        if layers:
            raise SettingsError("Sparse vectors are made of the last layer alone; choose another loss.")
        return word_weights(self.model, batch)[:, None]

    def compared(self, pool: Pool, texts: np.ndarray) -> Compared:
        """See `EmbedJob`."""
        return Vectors(self._encoded(pool, texts, ()))

    def save(self, folder: Path, figures: Mapping[str, Any]) -> None:
        """The model with its settings for sparse vectors."""
        embed = self.settings.embed
        sparse = SparseSettings(max_length=embed.max_length, prompts=embed.prompts)
        save_model(
            folder,
            self.result(),
            self.loaded.tokenizer_path,
            settings={"recipe": self.recipe, KEY: encode(sparse)},
            origin=self.loaded.origin,
            parents={} if self.loaded.artifact is None else {"model": Artifact.open(self.loaded.artifact.path)},
            figures=figures,
            overwrite=True,
        )
