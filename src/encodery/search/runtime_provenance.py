"""By what a model was run when it made an index's vectors: noted there, and compared when it is asked.

Vectors of two runtimes are near each other, not equal: 8-bit ones differ from float32 in the third decimal of a cosine.
So an index keeps one runtime for all it stores and says so where a query comes from another. What a runtime gives a
text must not depend on the texts beside it: an index stores a text in one company and a query comes alone.
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
from encodery.encoders.dense import DenseEncoder
from encodery.search.encoder import TextEncoder

ELSEWHERE = ("folder", "threads", "batch_tokens", "device")
"""Settings of runtimes that say where and how fast, not what."""
STEADY = 0.999  # Cosine of a text's vector alone and in company: static 8-bit keeps 0.9997, dynamic falls below 0.99.
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
    """`name` of the runtime, empty for an encoder that is none of ours; `fingerprint` of its settings and of the
    export it ran, empty where both are the default; `path` of that export."""

    name: str = ""
    fingerprint: str = ""
    path: str = ""

    def to_dict(self) -> dict[str, str]:
        """As it is noted."""
        return dataclasses.asdict(self)

    @classmethod
    def read(cls, table: Mapping[str, Any] | None) -> RuntimeProvenance | None:
        """What an index noted; None in those of older versions, which noted nothing."""
        return None if table is None else cls(**table)

    @property
    def runtime_argument(self) -> str | None:
        """What `load` wants to run a model the same way; None for the model itself."""
        return None if self.name in ("", "torch") else self.path or self.name

    def same_vectors(self, other: RuntimeProvenance) -> bool:
        """Whether both give the same vectors."""
        return (self.name, self.fingerprint) == (other.name, other.fingerprint)


TORCH = RuntimeProvenance("torch")


def provenance_of(encoder: TextEncoder) -> RuntimeProvenance:
    """By what an encoder runs its model."""
    if not isinstance(encoder, DenseEncoder):
        return RuntimeProvenance()
    if encoder.runtime is None:
        return TORCH
    name, folder = name_of(encoder.runtime), getattr(encoder.runtime, "folder", None)
    if name == TORCH.name or encoder.runtime.exact:
        return TORCH
    settings = {key: value for key, value in encode(encoder.runtime).items() if key not in ELSEWHERE}
    export = "" if folder is None else Artifact.open(folder, "export").manifest.fingerprint
    digest = hashlib.sha256(json.dumps([settings, export], sort_keys=True).encode()).hexdigest()[:32]
    return RuntimeProvenance(name, digest, "" if folder is None else str(Path(folder).resolve()))


def model_fingerprint_of(encoder: TextEncoder) -> str:
    """The fingerprint of an encoder's model, whatever runs it."""
    return encoder.model_fingerprint if isinstance(encoder, DenseEncoder) else encoder.fingerprint


def check_batch_invariance(encoder: TextEncoder, provenance: RuntimeProvenance) -> None:
    """Raises `SettingsError` for a runtime whose vector of a text depends on the texts beside it."""
    if provenance.runtime_argument is None:
        return
    beside = encoder.encode(PROBES, truncate="right").vectors
    alone = np.concatenate([encoder.encode([probe], truncate="right").vectors for probe in PROBES])
    norms = np.linalg.norm(beside, axis=1) * np.linalg.norm(alone, axis=1)
    cosine = float(((beside * alone).sum(axis=1) / np.maximum(norms, 1e-12)).min())
    if not cosine >= STEADY:
        raise SettingsError(
            f"runtime = '{provenance.runtime_argument}': a text's vector depends on the texts beside it (cosine {cosine:.4f}, at least "
            f"{STEADY} is needed), so what an index stores would not be what a query gives. Take torch or packed_int8, "
            "or an 8-bit export with fixed scales."
        )
