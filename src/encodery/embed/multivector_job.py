"""Training of a vector a token: the job of embeddings with MaxSim in place of the product of two vectors.

arXiv:2004.12832. The losses are the same, since they only ask how alike two texts are; a similarity is a mean over the
query's tokens here, so that temperatures mean what they mean elsewhere. Shapes: B examples, C columns, T tokens,
K width of a vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from encodery.base.artifact import Artifact
from encodery.base.errors import SettingsError
from encodery.base.settings import decode, encode
from encodery.embed.cached import in_pieces
from encodery.embed.job import EmbedJob
from encodery.embed.losses import Given, Similarity
from encodery.embed.multivector import (
    KEY,
    MultiVectorEncoder,
    MultiVectorSettings,
    Projection,
    golden_tokens,
    max_sim,
)
from encodery.embed.pool import Pool
from encodery.embed.score import Compared
from encodery.model.load import save_model
from encodery.model.shape import Batch
from encodery.objectives import Term


@dataclass(frozen=True, eq=False)
class GivenTokens(Given):
    """`vectors`: C of (T, K), the tokens of a column's texts; `whose`: C of (T,), the example of each; `examples` B."""

    whose: tuple[Tensor, ...] = ()
    examples: int = 0

    @property
    def size(self) -> int:
        """See `Given`."""
        return self.examples

    def cross(self, one: int, other: int, kind: Similarity = "cosine") -> Tensor:
        """(B, B) mean over the tokens of `one` of the best match in `other`; the vectors are of unit length."""
        sizes = self.size, self.size
        total = max_sim(self.vectors[one], self.whose[one], self.vectors[other], self.whose[other], sizes)
        return total / torch.bincount(self.whose[one], minlength=self.size)[:, None]

    def pairs(self, one: int, other: int, kind: Similarity = "cosine") -> Tensor:
        """(B,) the same of each example's own two texts."""
        return self.cross(one, other, kind).diagonal()

    def cut(self, width: int) -> Given:
        """Is not defined: the beginnings of token vectors are not of unit length."""
        raise SettingsError("loss = 'matryoshka': a model of a vector a token cannot be cut; set its width instead.")


class MultiVectorJob(EmbedJob):
    """See `EmbedJob`. Of the embedding settings only `max_length` and `prompts` count; `token_width` is K."""

    def head(self) -> nn.Module:
        """The projection: the model's where it has one of this width, else a new one."""
        projection = Projection(self.model.settings.width, self.settings.token_width)
        told = self.loaded.settings.get(KEY)
        if told is not None and decode(MultiVectorSettings, told).width == self.settings.token_width:
            kept = self.loaded.module_state(KEY)
            projection.load_state_dict({name: tensor for name, tensor in kept.items() if name != "golden"})
        return projection

    def _tokens(self, batch: Batch) -> Tensor:
        """(T, K)."""
        found: Tensor = self.pooling(self.model.encoder(batch).hidden)
        return found

    def terms(self, batch: Batch) -> Mapping[str, Term]:
        """See `Job`."""
        assert self.loss is not None
        columns, examples = batch.extra["texts"].shape
        rows = in_pieces(self._tokens, batch, self.train.micro_tokens)
        owner = torch.empty_like(batch.extra["place"])  # text of the step, by columns, at each place of the batch
        owner[batch.extra["place"]] = torch.arange(len(owner), device=owner.device)
        text = owner[batch.layout.sequence]
        mine = [torch.where(text // examples == column)[0] for column in range(columns)]
        given = GivenTokens(
            tuple(rows[some] for some in mine),
            batch.extra.get("target"),
            batch.extra["texts"],
            None if "guide" not in batch.extra else Given(tuple(batch.extra["guide"].float())),
            progress=float(batch.extra["progress"]),
            whose=tuple(text[some] % examples for some in mine),
            examples=examples,
        )
        with torch.autocast(self.device.type, enabled=False):
            return self.loss.terms(given)

    @torch.no_grad()
    def compared(self, pool: Pool, texts: np.ndarray) -> Compared:
        """See `EmbedJob`."""
        self.module.eval()
        batch, place = pool.batch(texts)
        rows = in_pieces(self._tokens, batch.to(self.device), self.train.micro_tokens).cpu()
        self.module.train()
        owner = torch.empty_like(place)
        owner[place] = torch.arange(len(place))
        return _Tokens(rows, owner[batch.layout.sequence])

    def save(self, folder: Path, figures: Mapping[str, Any]) -> None:
        """The model with its projection and golden vectors."""
        model, embed = self.result(), self.settings.embed
        kept = {name: tensor.detach().cpu() for name, tensor in self.pooling.state_dict().items()}
        projection = Projection(model.settings.width, self.settings.token_width)
        projection.load_state_dict(kept)
        told = MultiVectorSettings(width=self.settings.token_width, max_length=embed.max_length, prompts=embed.prompts)
        kept["golden"] = golden_tokens(MultiVectorEncoder(model, self.loaded.tokenizer, projection, told, "cpu"))
        save_model(
            folder,
            model,
            self.loaded.tokenizer_path,
            settings={"recipe": self.recipe, KEY: encode(told)},
            modules={KEY: kept},
            origin=self.loaded.origin,
            parents={} if self.loaded.artifact is None else {"model": Artifact.open(self.loaded.artifact.path)},
            figures=figures,
            overwrite=True,
        )


@dataclass(frozen=True, eq=False)
class _Tokens:
    """Texts with a vector a token: `rows` (T, K), of text `whose` (T,)."""

    rows: Tensor
    whose: Tensor

    def cross(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """See `Compared`."""
        (left, mine), (right, theirs) = self._of(one), self._of(other)
        return max_sim(left, mine, right, theirs, (len(one), len(other))).numpy()

    def pairs(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """See `Compared`."""
        found = [self.cross(one[i : i + 1], other[i : i + 1])[0, 0] for i in range(len(one))]
        return np.array(found, np.float32)

    def _of(self, texts: np.ndarray) -> tuple[Tensor, Tensor]:
        """Vectors of these texts, and the place among them that each belongs to."""
        parts = [torch.where(self.whose == int(text))[0] for text in texts]
        index = torch.cat(parts)
        place = torch.repeat_interleave(torch.arange(len(parts)), torch.tensor([len(part) for part in parts]))
        return self.rows[index], place
