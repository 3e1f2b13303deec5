"""An encodery model under the stock `mteb` package, as one of its encoders. arXiv:2210.07316

    import mteb
    from encodery.evaluate.mteb import MTEBEncoder

    mteb.evaluate(MTEBEncoder("runs/mine"), mteb.get_tasks(tasks=["STSBenchmark"]))

Prompts stored with the model are used as mteb looks for them: those of a task and side first, then of a task, of a kind
of task and side, of a kind of task, and of a side ("query", "document"). Tokens that truncation left out are counted in
`dropped`. Shapes: N texts, M other texts, K width of a vector.
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

NAMESPACE = "local"  # mteb's names have the form organisation/model


class MTEBEncoder:
    """What mteb calls an encoder. `revision` is only written into its results; `truncate` is for texts longer than the
    model takes."""

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
        """Vectors (N, K) of batches with "text" lists; the batches' own size has no effect."""
        texts = [text for batch in inputs for text in batch["text"]]
        found = self.embedder.encode(texts, self.truncate, prompt=self.prompt(task_metadata, prompt_type))
        self.dropped += int(found.dropped.sum())
        return found.vectors

    def prompt(self, task_metadata: Any, prompt_type: Any = None) -> str | None:
        """The name of the stored prompt for a task and a side; None where none is stored."""
        side = None if prompt_type is None else str(getattr(prompt_type, "value", prompt_type))
        asked = []
        for name in (getattr(task_metadata, "name", None), getattr(task_metadata, "type", None)):
            if name:
                asked += [*((f"{name}-{side}",) if side else ()), str(name)]
        known = self.embedder.settings.prompts
        return next((name for name in (*asked, side) if name in known), None)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> np.ndarray:
        """Cosines (N, M) of vectors (N, K) or (K,) and (M, K) or (K,)."""
        found: np.ndarray = _unit(embeddings1) @ _unit(embeddings2).T
        return found

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> np.ndarray:
        """Cosines (N,) of vectors (N, K) with their partners (N, K)."""
        found: np.ndarray = (_unit(embeddings1) * _unit(embeddings2)).sum(1)
        return found

    @cached_property
    def mteb_model_meta(self) -> Any:
        """What mteb writes above its results; what is not known of a local model is left open."""
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
    """Rows (N, K) at unit length, from an array or tensor of one or two dimensions."""
    rows = np.atleast_2d(np.asarray(vectors, np.float32))
    found: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return found
