"""Which runtime made the vectors of an index: recorded when the index is built, compared when it is queried.

The vectors of two runtimes are close, not equal: 8-bit ones differ from float32 in the third decimal of a cosine. An
index therefore stores vectors of one runtime only, and warns if a query is encoded by another. The vector of a text
must not depend on the other texts of its batch, because an index encodes passages in batches and queries one by one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from encodery.base.artifact import Artifact
from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.base.settings import encode
from encodery.encoders import TextEncoder
from encodery.encoders.model_encoder import ModelEncoder

NO_EFFECT_ON_VECTORS = ("folder", "threads", "batch_tokens", "device")
"""Settings of runtimes that change where and how fast a model runs, not what it computes."""
MIN_COSINE = 0.999
"""Between a text's vector in a batch and alone. Static 8-bit keeps 0.9997, dynamic 8-bit falls below 0.99."""
PROBES = (
    "a",
    "The harbour was empty when the storm came in from the west.",
    "12 ÷ 7 ≈ 1.714285; x³ − 2x + 1 = 0 !!!",
    " ".join(["Whoever wants to know how a long text fares beside short ones reads this line more than once."] * 6),
    "Les cafés ferment à minuit.",
    "東京は夜の七時",
)


@dataclass(frozen=True)
class RuntimeProvenance:
    """What ran a model. `name` of the runtime, empty for an encoder from outside the package; `fingerprint` of its
    settings and of the export it ran, empty if both are the default; `path` of that export."""

    name: str = ""
    fingerprint: str = ""
    path: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return the fields as plain values, as an index stores them."""
        return dataclasses.asdict(self)

    @classmethod
    def read(cls, table: Mapping[str, Any]) -> RuntimeProvenance:
        """Return the provenance of what `to_dict` gave."""
        return cls(**table)

    @property
    def runtime_argument(self) -> str | None:
        """What `load_retriever` takes to run a model in the same way; None for PyTorch."""
        return None if self.name in ("", "torch") else self.path or self.name

    def same_vectors(self, other: RuntimeProvenance) -> bool:
        """Return whether both make the same vectors."""
        return (self.name, self.fingerprint) == (other.name, other.fingerprint)


TORCH = RuntimeProvenance("torch")


def provenance_of(encoder: TextEncoder) -> RuntimeProvenance:
    """Return what runs the model of an encoder."""
    if not isinstance(encoder, ModelEncoder):
        return RuntimeProvenance()
    runtime = encoder.runtime
    if runtime is None:
        return TORCH
    name, folder = name_of(runtime), getattr(runtime, "folder", None)
    if name == TORCH.name or runtime.exact:
        return TORCH
    settings = {key: value for key, value in encode(runtime).items() if key not in NO_EFFECT_ON_VECTORS}
    export = "" if folder is None else Artifact.open(folder, "export").manifest.fingerprint
    digest = hashlib.sha256(json.dumps([settings, export], sort_keys=True).encode()).hexdigest()[:32]
    return RuntimeProvenance(name, digest, "" if folder is None else str(Path(folder).resolve()))


def check_batch_invariance(encoder: TextEncoder, provenance: RuntimeProvenance) -> None:
    """Raise `SettingsError` for a runtime whose vector of a text depends on the other texts of the batch."""
    if provenance.runtime_argument is None:
        return
    batched = encoder.encode(PROBES, truncate="right").arrays()["vectors"]
    alone = np.concatenate([encoder.encode([probe], truncate="right").arrays()["vectors"] for probe in PROBES])
    norms = np.linalg.norm(batched, axis=1) * np.linalg.norm(alone, axis=1)
    cosine = float(((batched * alone).sum(axis=1) / np.maximum(norms, 1e-12)).min())
    if not cosine >= MIN_COSINE:
        raise SettingsError(
            f"runtime = '{provenance.runtime_argument}': the vector of a text depends on the other texts of its batch "
            f"(cosine {cosine:.4f}; at least {MIN_COSINE} is needed), so the vectors of an index would not match those "
            "of queries. Use torch, packed_int8, or an 8-bit export with fixed scales."
        )
