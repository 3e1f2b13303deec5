"""Whether an export computes what the model computes: read back by ourselves, and by transformers where installed.

Shapes: T tokens, B sequences, L the longest of them, M rows, C columns of the vocabulary.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from encodery.base.errors import ArtifactError
from encodery.model import golden
from encodery.model.foreign import import_folder
from encodery.model.load import Loaded

TOLERANCE = {"float32": 5e-5, "float16": 2e-2, "bfloat16": 1e-1}
"""Allowed drift as a share of the largest value, by the precision of the weights."""
PEER = "transformers"
SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "  Ünïcödé, naïve café; 東京 1,234.56 — “quotes” & e-mail@host.org\n\ttabs",
    "don't re-tokenise: snake_case, camelCase, C++ x==y?",
    "",
)


def check_read_back(folder: Path, kept: dict[str, Tensor], dtype: str) -> float:
    """Drift of the folder as we read it. Raises `ArtifactError`."""
    apart = golden.drift(import_folder(folder).model, kept)
    _refuse(apart, dtype, "read back")
    return apart


def check_peer(folder: Path, kept: dict[str, Tensor], dtype: str, config: dict[str, Any]) -> dict[str, Any]:
    """Drift of the folder as transformers reads it; nothing where it is not installed. Raises `ArtifactError`."""
    if importlib.util.find_spec(PEER) is None:
        return {}
    with _quiet() as peer:
        kind = peer.AutoModelForMaskedLM if "logits" in kept else peer.AutoModel
        try:
            model = kind.from_pretrained(folder, dtype=torch.float32).eval()
        except Exception as error:
            raise ArtifactError(
                f"{PEER} {peer.__version__} cannot load the export: {error}. With peer=false it is written unasked."
            ) from error
        apart = _peer_drift(model, kept, config.get("pad_token_id") or 0)
    _refuse(apart, dtype, f"run by {PEER} {peer.__version__}")
    return {"drift_transformers": apart, "transformers": peer.__version__}


def check_tokenizer(folder: Path, loaded: Loaded) -> dict[str, Any]:
    """Whether `AutoTokenizer` gives our ids; nothing where there is nothing to compare. Raises `ArtifactError`."""
    if loaded.tokenizer_path is None or importlib.util.find_spec(PEER) is None:
        return {}
    with _quiet() as peer:
        tokenizer = peer.AutoTokenizer.from_pretrained(folder)
        theirs = [tokenizer(text)["input_ids"] for text in SENTENCES]
    for text, ours, other in zip(
        SENTENCES, loaded.tokenizer.encode_batch(SENTENCES, specials=True), theirs, strict=True
    ):
        if ours.tolist() != other:
            raise ArtifactError(
                f"{PEER}' tokenizer reads the export differently: {text!r} becomes {other}, ours gives {ours.tolist()}."
            )
    return {"tokenizer_ids_equal": True}


@torch.inference_mode()
def _peer_drift(model: Any, kept: dict[str, Tensor], pad: int) -> float:
    cu = kept["cu_seqlens"].long()
    lengths = cu.diff()
    real = torch.arange(int(lengths.max())) < lengths[:, None]  # (B, L)
    given = {"input_ids": torch.full(real.shape, pad), "attention_mask": real.long()}
    given["input_ids"][real] = kept["ids"]
    if "segment" in kept:
        given["token_type_ids"] = torch.zeros(real.shape, dtype=torch.int64)
        given["token_type_ids"][real] = kept["segment"]
    answer = model(**given, output_hidden_states=True)
    hidden = answer.hidden_states[-1] if "logits" in kept else answer.last_hidden_state
    found = {"hidden": hidden[real]}
    if "logits" in kept:
        logits = answer.logits[real]
        found["logits"] = logits[kept["rows"]][:, golden.columns(logits.shape[1])]
    return golden.apart(found, kept)


def _refuse(apart: float, dtype: str, how: str) -> None:
    allowed = TOLERANCE[dtype]
    if not apart <= allowed:
        raise ArtifactError(
            f"The export's outputs drift from the model's: {how}, they are off by {apart:.1e} of the largest value, "
            f"{allowed:.0e} allowed. Nothing was written."
        )


@contextlib.contextmanager
def _quiet() -> Iterator[Any]:
    """transformers without its progress bars, advice and warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = importlib.import_module(PEER)
        logs = peer.utils.logging
        level, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
        logs.set_verbosity_error()
        logs.disable_progress_bar()
        try:
            yield peer
        finally:
            logs.set_verbosity(level)
            if bars:
                logs.enable_progress_bar()
