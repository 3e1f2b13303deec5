"""Use an encodery model as an encoder of the `mteb` package. arXiv:2210.07316

    import mteb
    from encodery.evaluate.mteb import MTEBEncoder

    mteb.evaluate(MTEBEncoder("runs/mine"), mteb.get_tasks(tasks=["STSBenchmark"]))

Prompts that are stored with the model are looked up as mteb does: by task and role first, then by task, by type of task
and role, by type of task, and by role ("query", "document"). Truncated tokens are counted in `dropped`. Shapes: N
texts, M other texts, K dimensions.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from encodery.base.extras import require
from encodery.encoders.dense import DenseEncoder
from encodery.model.load import load_model

if TYPE_CHECKING:
    import torch

NAMESPACE = "local"  # Names in mteb have the form organisation/model.


class MTEBEncoder:
    """An encoder for mteb.

    Args:
        revision: written to the results.
        truncate: how texts longer than the maximum length are truncated.
    """

    def __init__(
        self,
        model_name: str | Path,
        revision: str | None = None,
        *,
        device: torch.device | str | None = None,
        truncate: str = "right",
        **_: Any,
    ) -> None:
        self.path = Path(model_name)
        self.embedder = DenseEncoder.from_loaded(load_model(model_name), device)
        self.revision = revision
        self.truncate = truncate
        self.dropped = 0

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: Any = None,
        **_: Any,
    ) -> np.ndarray:
        """Return embeddings (N, K) of batches with lists of "text"; the batch size has no effect."""
        texts = [text for batch in inputs for text in batch["text"]]
        embedded = self.embedder.encode(texts, self.truncate, prompt=self.prompt(task_metadata, prompt_type))
        self.dropped += int(embedded.dropped.sum())
        return embedded.vectors

    def prompt(self, task_metadata: Any, prompt_type: Any = None) -> str | None:
        """Return the name of the stored prompt for a task and a role; None if there is none."""
        role = None if prompt_type is None else str(getattr(prompt_type, "value", prompt_type))
        candidates = []
        for name in (getattr(task_metadata, "name", None), getattr(task_metadata, "type", None)):
            if name:
                candidates += [*((f"{name}-{role}",) if role else ()), str(name)]
        known = self.embedder.settings.prompts
        return next((name for name in (*candidates, role) if name in known), None)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> np.ndarray:
        """Return cosines (N, M) of embeddings (N, K) or (K,) and (M, K) or (K,)."""
        cosines: np.ndarray = _unit(embeddings1) @ _unit(embeddings2).T
        return cosines

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> np.ndarray:
        """Return cosines (N,) of embeddings (N, K) and their partners (N, K)."""
        cosines: np.ndarray = (_unit(embeddings1) * _unit(embeddings2)).sum(1)
        return cosines

    @cached_property
    def mteb_model_meta(self) -> Any:
        """The metadata that mteb writes to its results; fields unknown for a local model are empty."""
        meta = require("mteb.models", "mteb").ModelMeta.create_empty()
        encoder = self.embedder.model.encoder
        known = {
            "name": f"{NAMESPACE}/{self.path.resolve().name}",
            "revision": self.revision or self.embedder.fingerprint,
            "n_parameters": sum(parameter.numel() for parameter in encoder.parameters()),
            "n_embedding_parameters": encoder.token_embeddings.numel(),
            "max_tokens": float(self.embedder.max_length),
            "embed_dim": self.embedder.dimension,
            "framework": ["PyTorch"],
            "similarity_fn_name": "cosine",
            "use_instructions": bool(self.embedder.settings.prompts),
        }
        return type(meta).model_validate({**meta.model_dump(), **known})


def _unit(vectors: Any) -> np.ndarray:
    """Return rows (N, K) at unit length, from an array or tensor of one or two dimensions."""
    rows = np.atleast_2d(np.asarray(vectors, np.float32))
    normalised: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return normalised
