"""Use an encodery model as an encoder of the `mteb` package. arXiv:2210.07316

    import mteb
    from encodery.evaluate.mteb import MTEBEncoder

    mteb.evaluate(MTEBEncoder("runs/mine"), mteb.get_tasks(tasks=["STSBenchmark"]))

Models with one vector per text are compared by cosine and sparse ones (SPLADE) by inner product. As in mteb's own
classes, the embeddings of a sparse model are sparse tensors for retrieval, and arrays for tasks that cannot read those.
Multi-vector models cannot be used: MaxSim is no product of two matrices.
Prompts that are stored with the model are looked up as mteb does: by task and role first, then by task, by type of task
and role, by type of task, and by role ("query", "document"). Truncated tokens are counted in `dropped`.
Shapes: N texts, M other texts, K dimensions.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from encodery.base.errors import SettingsError
from encodery.base.extras import require
from encodery.encoders import DOCUMENT, QUERY, Role
from encodery.encoders.embeddings import DenseEmbeddings, SparseEmbeddings
from encodery.encoders.loading import load_encoder
from encodery.model.load import load_model

NAMESPACE = "local"  # Names in mteb have the form organisation/model.


class MTEBEncoder:
    """An encoder for mteb.

    Args:
        revision: written to the results.
        truncate: how texts longer than the maximum length are truncated.

    Raises `SettingsError` for a multi-vector model.
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
        self.encoder = load_encoder(load_model(model_name), device)
        if self.encoder.kind == "multi_vector":
            raise SettingsError(
                f"{model_name}: is a multi-vector model, and mteb compares embeddings by a product of two matrices. "
                "Evaluate it with `encodery evaluate retrieval`."
            )
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
    ) -> np.ndarray | torch.Tensor:
        """Return embeddings (N, K) of batches with lists of "text"; the batch size has no effect."""
        texts = [text for batch in inputs for text in batch["text"]]
        name, prompt = _role_name(prompt_type), self.prompt(task_metadata, prompt_type)
        role: Role | None = QUERY if name == QUERY else DOCUMENT if name == DOCUMENT else None
        embeddings = self.encoder.encode(texts, self.truncate, prompt=prompt, role=role)
        self.dropped += int(embeddings.dropped.sum())
        if isinstance(embeddings, SparseEmbeddings):
            matrix = _sparse_tensor(embeddings, self.encoder.dimension)
            return matrix if _reads_sparse_tensors(task_metadata) else matrix.to_dense().numpy()
        assert isinstance(embeddings, DenseEmbeddings)
        return embeddings.vectors

    def prompt(self, task_metadata: Any, prompt_type: Any = None) -> str | None:
        """Return the name of the stored prompt for a task and a role; None if there is none."""
        role = _role_name(prompt_type)
        candidates = []
        for name in (getattr(task_metadata, "name", None), getattr(task_metadata, "type", None)):
            if name:
                candidates += [*((f"{name}-{role}",) if role else ()), str(name)]
        known = self.encoder.prompts
        return next((name for name in (*candidates, role) if name in known), None)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> np.ndarray:
        """Return the scores (N, M) of embeddings (N, K) or (K,) with (M, K) or (K,)."""
        if self.encoder.kind == "sparse":
            scores: np.ndarray = (_as_scipy(embeddings1) @ _as_scipy(embeddings2).T).toarray()
            return scores
        cosines: np.ndarray = _unit(embeddings1) @ _unit(embeddings2).T
        return cosines

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> np.ndarray:
        """Return the scores (N,) of embeddings (N, K) with their partners (N, K)."""
        if self.encoder.kind == "sparse":
            return np.asarray(_as_scipy(embeddings1).multiply(_as_scipy(embeddings2)).sum(1)).reshape(-1)
        cosines: np.ndarray = (_unit(embeddings1) * _unit(embeddings2)).sum(1)
        return cosines

    @cached_property
    def mteb_model_meta(self) -> Any:
        """The metadata that mteb writes to its results; fields unknown for a local model are empty."""
        meta = require("mteb.models", "mteb").ModelMeta.create_empty()
        encoder = self.encoder.model.encoder
        known = {
            "name": f"{NAMESPACE}/{self.path.resolve().name}",
            "revision": self.revision or self.encoder.fingerprint,
            "n_parameters": sum(parameter.numel() for parameter in encoder.parameters()),
            "n_embedding_parameters": encoder.token_embeddings.numel(),
            "max_tokens": float(self.encoder.max_length),
            "embed_dim": self.encoder.dimension,
            "framework": ["PyTorch"],
            "similarity_fn_name": "dot" if self.encoder.kind == "sparse" else "cosine",
            "use_instructions": bool(self.encoder.prompts),
        }
        return type(meta).model_validate({**meta.model_dump(), **known})


def _role_name(prompt_type: Any) -> str | None:
    """Return the role that mteb gives as an enumeration or a string."""
    return None if prompt_type is None else str(getattr(prompt_type, "value", prompt_type))


def _reads_sparse_tensors(task_metadata: Any) -> bool:
    """Return whether mteb only multiplies the embeddings of a task: in retrieval, but not in reranking."""
    kind = getattr(task_metadata, "simplified_task_type", None)
    return kind == "retrieval" and "Reranking" not in task_metadata.type


def _sparse_tensor(embeddings: SparseEmbeddings, dimension: int) -> torch.Tensor:
    """Return embeddings as a sparse tensor (N, K)."""
    owner = np.repeat(np.arange(len(embeddings)), np.diff(embeddings.ends, prepend=0))
    places = torch.from_numpy(np.stack([owner, embeddings.term_ids.astype(np.int64)]))
    weights, shape = torch.from_numpy(embeddings.weights), (len(embeddings), dimension)
    return torch.sparse_coo_tensor(places, weights, shape, check_invariants=True).coalesce()


def _as_scipy(embeddings: Any) -> Any:
    """Return a sparse tensor (N, K), or an array or tensor (N, K) or (K,), as a scipy matrix (N, K)."""
    csr_matrix = require("scipy.sparse", "evaluate").csr_matrix
    if isinstance(embeddings, torch.Tensor) and embeddings.is_sparse:
        tensor = torch.Tensor.coalesce(embeddings if embeddings.dim() == 2 else embeddings[None])
        return csr_matrix((tensor.values().numpy(), tensor.indices().numpy()), shape=tuple(tensor.shape))
    return csr_matrix(np.atleast_2d(np.asarray(embeddings)))


def _unit(vectors: Any) -> np.ndarray:
    """Return rows (N, K) at unit length, from an array or tensor of one or two dimensions."""
    rows = np.atleast_2d(np.asarray(vectors, np.float32))
    normalised: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return normalised
