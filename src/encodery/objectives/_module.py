"""An objective at work: what the training loop calls for every batch, and how held-out text is judged."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from encodery.model import count
from encodery.model.auxiliary import AuxiliaryTerm, term_names
from encodery.model.network import Model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch, Output
from encodery.objectives._terms import Count, LossTerm


class ObjectiveModule(nn.Module, abc.ABC):
    """An objective at work; its own weights are dropped at export. `keeps_heads`: False if the model's heads are
    trained on other states than they see later, and are dropped too. `supports_layerwise`: `encode` and `forward` are
    as here."""

    keeps_heads: bool = True
    supports_layerwise: ClassVar[bool] = False

    def init_weights(self, generator: torch.Generator) -> None:
        """Initialise the objective's own weights."""

    def attach(self, model: Model) -> None:
        """Take what the objective shares with the model, such as its token embeddings, or register hooks in its layers.

        Called once, when both have their initial weights and before they are moved to a device. What belongs to the
        model must not be registered as a parameter or a module of the objective.
        """

    @abc.abstractmethod
    def prepare(self, batch: Batch, generator: torch.Generator, progress: float) -> Batch:
        """Return the batch that the model reads, `extra` holding what `loss` needs; `progress` in 0..1 of the run."""

    @abc.abstractmethod
    def counts(self, batch: Batch) -> dict[str, Count]:
        """Return the count of every learned term of this prepared batch, known before the model runs."""

    @abc.abstractmethod
    def loss(self, model: Model, output: Output, batch: Batch) -> dict[str, LossTerm]:
        """Return the terms of a prepared batch, given the model's output for it."""

    def encode(self, model: Model, batch: Batch) -> Output:
        """Run the model on a prepared batch; held-out text is read in the same way."""
        return model(batch)  # type: ignore[no-any-return]

    def forward(self, model: Model, batch: Batch) -> dict[str, LossTerm]:
        """Run the model on a prepared batch and return its terms."""
        return self.terms(model, self.encode(model, batch), batch)

    def terms(self, model: Model, output: Output, batch: Batch) -> dict[str, LossTerm]:
        """Return the terms of `loss`, and the auxiliary ones that the model's sublayers add in training."""
        return self.loss(model, output, batch) | auxiliary_terms(output.auxiliary, batch)

    def all_counts(self, model: Model, batch: Batch) -> dict[str, Count]:
        """Return the counts of all `terms` of a prepared batch in training."""
        names = term_names(model.encoder.blocks)
        return self.counts(batch) | dict.fromkeys(names, batch.tokens)

    def evaluate(self, model: Model, batch: Batch, generator: torch.Generator) -> dict[str, LossTerm]:
        """Return the terms of a held-out batch, whose sums over all batches become the held-out metrics.

        The default judges what the objective trains: it prepares the batch with `generator`, which is seeded alike for
        every evaluation, and returns all terms. A term named `loss` replaces the weighted sum of the learned ones.

        Args:
            model: The model, in evaluation mode and without gradients.
            batch: Held-out text in which fixed tokens are [MASK]; `extra` has their `masked_positions` (M,) and the
                ids that were there, `labels` (M,).
            generator: For random draws, on the batch's device.
        """
        ids = batch.ids.index_copy(0, batch.extra["masked_positions"], batch.extra["labels"])
        whole = Batch(ids, batch.cu_seqlens, batch.max_seqlen, batch.segment)
        return self(model, self.prepare(whole, generator, 1.0))  # type: ignore[no-any-return]

    def evaluate_fed(self, model: Model, batch: Batch, generator: torch.Generator) -> dict[str, LossTerm]:
        """Return further terms of a batch that the objective's feed made of held-out documents, all of weight 0, for
        what no text alone can tell; by default none. Arguments as in `evaluate`, without masks."""
        return {}

    def heldout_metrics(self, means: Mapping[str, float], tokens_per_byte: float) -> dict[str, float]:
        """Return what is reported of the means of `evaluate`'s terms and of their `loss`; here they themselves.

        `tokens_per_byte`: tokens of the held-out text by its UTF-8 bytes.
        """
        return dict(means)

    def flops(self, model: ModelSettings, length: float, progress: float) -> float:
        """Return the floating-point operations, forward and backward, per token of the batch before `prepare`."""
        return count.flops_per_token(model, length)

    def rates(self, progress: float) -> dict[str, float]:
        """Return the values of the objective's schedules at `progress`, for the log (`mask_rate`)."""
        return {}


def auxiliary_terms(auxiliary: Mapping[str, AuxiliaryTerm], batch: Batch) -> dict[str, LossTerm]:
    """Return auxiliary terms as loss terms, whose mean counts each micro-batch by its tokens."""
    return {
        name: LossTerm(term.mean * batch.tokens, batch.tokens, weight=term.weight) for name, term in auxiliary.items()
    }
