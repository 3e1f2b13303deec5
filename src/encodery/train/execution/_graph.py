"""The loss terms of a micro-batch of fixed shape as one compiled graph (`torch.compile`).

Inside the graph attention is `ops.attention.graph`; nothing reads the batch on the host. Shapes: T tokens, B sequences,
M predictions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from encodery.model.reach import Reach
from encodery.model.shape import Batch, Layout
from encodery.objectives import LossTerm
from encodery.train.job import Job


class CompiledTerms:
    """`Job.terms` of prepared batches that all have one shape, as one graph. `cuda_graphs`: its kernels are recorded
    and replayed, so results are written to the same memory every time; they are copied here."""

    def __init__(self, job: Job, cuda_graphs: bool = False, backend: str | Callable[..., Any] = "inductor") -> None:
        self.job, self.cuda_graphs = job, cuda_graphs
        mode = "reduce-overhead" if cuda_graphs else None
        self.graph: Callable[..., Any] = torch.compile(
            self._terms, fullgraph=True, dynamic=False, backend=backend, mode=mode
        )

    def __call__(self, batch: Batch) -> dict[str, LossTerm]:
        """See `Job.terms`."""
        extra = batch.extra
        totals, counts, weights = self.graph(
            batch.ids,
            batch.cu_seqlens,
            batch.max_seqlen,
            extra["masked_positions"],
            extra["labels"],
            batch.reach,
            batch.prefix,
        )
        terms = {name: LossTerm(total, counts[name], weights[name]) for name, total in totals.items()}
        return {name: _copy(term) for name, term in terms.items()} if self.cuda_graphs else terms

    def _terms(
        self,
        ids: Tensor,
        cu_seqlens: Tensor,
        max_seqlen: int,
        masked_positions: Tensor,
        labels: Tensor,
        reach: Reach,
        prefix: Tensor | None,
    ) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, float]]:
        extra = {"masked_positions": masked_positions, "labels": labels}
        batch = Batch(ids, cu_seqlens, max_seqlen, None, extra, reach, prefix)
        object.__setattr__(batch, "layout", Layout.precomputed(cu_seqlens, max_seqlen, len(ids), reach, prefix))
        terms = self.job.terms(batch)
        return (
            {name: term.total for name, term in terms.items()},
            {name: term.count for name, term in terms.items()},
            {name: term.weight for name, term in terms.items()},
        )


def _copy(term: LossTerm) -> LossTerm:
    count = term.count.clone() if isinstance(term.count, Tensor) else term.count
    return LossTerm(term.total.clone(), count, term.weight)
