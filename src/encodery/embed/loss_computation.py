"""A loss over the examples of a step, of all processes where examples are compared with each other.

Shapes: B examples, C columns, L layers that the loss samples, K dimensions of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from encodery.embed.loss_inputs import VectorInputs
from encodery.embed.objective_context import ObjectiveContext
from encodery.model.shape import Batch
from encodery.objectives import Count


class LossComputation:
    """The loss of an objective's context, with its labels and embeddings gathered over the processes."""

    def __init__(self, context: ObjectiveContext) -> None:
        assert context.loss is not None
        self.loss, self.distributed = context.loss, context.distributed
        self.batch_size = context.batch_size
        self.gathers = self.loss.in_batch and context.gather and self.distributed.world > 1

    def gather(self, tensor: Tensor, axis: int = 0) -> Tensor:
        """Return a tensor of the examples of this process, along `axis`, for the examples of all that are compared."""
        if not self.gathers:
            return tensor
        return self.distributed.all_gather(tensor.transpose(0, axis)).transpose(0, axis)

    def counts(self, batch: Batch) -> Mapping[str, Count]:
        """Return the counts of the learned terms; each process has an equal part of those that are gathered."""
        (columns, examples), target = batch.extra["texts"].shape, batch.extra.get("target")
        if not self.gathers:
            return self.loss.counts(columns, examples, target)
        everything = None if target is None else self.distributed.all_gather(target)
        counts = self.loss.counts(columns, self.batch_size, everything)
        return {name: count / self.distributed.world for name, count in counts.items()}

    def labels(self, batch: Batch) -> tuple[Tensor | None, Tensor, VectorInputs | None]:
        """Return the targets, the texts (C, B) and the guide's embeddings of the examples."""
        extra = batch.extra
        target = None if "target" not in extra else self.gather(extra["target"])
        guide = None if "guide" not in extra else VectorInputs(tuple(self.gather(extra["guide"].float(), 1)))
        return target, self.gather(extra["texts"], 1), guide

    def vector_inputs(self, vectors: Tensor, batch: Batch) -> VectorInputs:
        """Return what the loss sees of gathered vectors (C, B, 1 + L, K)."""
        target, texts, guide = self.labels(batch)
        last, *earlier = (VectorInputs(tuple(vectors[:, :, i]), target, texts, guide) for i in range(vectors.shape[2]))
        return replace(last, layers=tuple(earlier), progress=float(batch.extra["progress"]))
