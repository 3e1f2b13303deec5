"""Whether an export computes what the model computes: read back by ourselves, and by transformers where installed.

Shapes: T tokens, B sequences, L the longest of them, M rows, C columns of the vocabulary.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from encodery.base.errors import ArtifactError
from encodery.export._heads import OUTPUTS
from encodery.finetune.artifact import golden_outputs, imported_head
from encodery.finetune.imported import MULTIPLE_CHOICE, QUESTION_ANSWERING, TOKEN_CLASSIFICATION, StockHeadKind
from encodery.finetune.preprocess import Preprocessor
from encodery.model import golden
from encodery.model.imported_folder import import_folder
from encodery.model.load import LoadedModel, load_model

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
    if OUTPUTS in kept:
        loaded = load_model(folder)
        tuned = imported_head(loaded)
        now = {} if tuned is None else {OUTPUTS: golden_outputs(loaded.model, tuned.module, kept)}
        apart = max(apart, golden.relative_difference(now, kept) if now else math.inf)
    _refuse(apart, dtype, "read back")
    return apart


def check_peer(
    folder: Path, kept: dict[str, Tensor], dtype: str, config: dict[str, Any], head: StockHeadKind | None
) -> dict[str, Any]:
    """Drift of the folder as transformers reads it; nothing where it is not installed. Raises `ArtifactError`, also
    where a weight of a task's head is missing there."""
    if importlib.util.find_spec(PEER) is None:
        return {}
    with _quiet() as peer:
        kind = getattr(peer, f"AutoModelFor{head or 'MaskedLM'}") if head or "logits" in kept else peer.AutoModel
        try:
            model, told = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        except Exception as error:
            raise ArtifactError(
                f"{PEER} {peer.__version__} cannot load the export: {error}. With verify_with_peer=false it is written unasked."
            ) from error
        if head and (told["missing_keys"] or told["unexpected_keys"]):
            odd = sorted({*told["missing_keys"], *told["unexpected_keys"]})
            raise ArtifactError(f"{PEER} {peer.__version__} and the export disagree on tensors: {', '.join(odd)}.")
        apart = _peer_drift(model.eval(), kept, config.get("pad_token_id") or 0, head)
    _refuse(apart, dtype, f"run by {PEER} {peer.__version__}")
    return {"drift_transformers": apart, "transformers": peer.__version__}


def check_tokenizer(folder: Path, loaded: LoadedModel, pairs: bool) -> dict[str, Any]:
    """Whether `AutoTokenizer` gives our ids, of `pairs` too; nothing where there is nothing to compare.

    Raises `ArtifactError`.
    """
    if loaded.tokenizer_path is None or importlib.util.find_spec(PEER) is None:
        return {}
    with _quiet() as peer:
        tokenizer = peer.AutoTokenizer.from_pretrained(folder)
        theirs = [tokenizer(text)["input_ids"] for text in SENTENCES]
    for text, ours, other in zip(
        SENTENCES, loaded.tokenizer.encode_batch(SENTENCES, add_special_tokens=True), theirs, strict=True
    ):
        if ours.tolist() != other:
            raise ArtifactError(
                f"{PEER}' tokenizer reads the export differently: {text!r} becomes {other}, ours gives {ours.tolist()}."
            )
    if pairs:
        _check_pair(tokenizer, loaded)
    return {"tokenizer_ids_equal": True}


def _check_pair(tokenizer: Any, loaded: LoadedModel) -> None:
    """Raises `ArtifactError` where their tokenizer puts two texts together otherwise than we do."""
    settings, pair = loaded.model.settings, SENTENCES[::2]
    theirs = tokenizer(*pair, truncation=False)
    reader = Preprocessor(loaded.tokenizer, max(settings.max_length, 8), settings.type_vocab_size > 1, "error")
    first, second = (ids.astype("int64") for ids in loaded.tokenizer.encode_batch(pair))
    ours = reader.pair(first, second)
    segments = [int(place >= ours.second_start) for place in range(len(ours.ids))]
    same = theirs["input_ids"] == ours.ids.tolist()
    if not same or (reader.uses_segments and theirs.get("token_type_ids") != segments):
        raise ArtifactError(
            f"{PEER}' tokenizer puts the two texts of a pair together otherwise than the model reads them."
        )


@torch.inference_mode()
def _peer_drift(model: Any, kept: dict[str, Tensor], pad: int, head: StockHeadKind | None) -> float:
    cu = kept["cu_seqlens"].long()
    lengths = cu.diff()
    real = torch.arange(int(lengths.max())) < lengths[:, None]  # (B, L)
    given = {"input_ids": torch.full(real.shape, pad), "attention_mask": real.long()}
    given["input_ids"][real] = kept["ids"]
    if "segment" in kept:
        given["token_type_ids"] = torch.zeros(real.shape, dtype=torch.int64)
        given["token_type_ids"][real] = kept["segment"]
    if head == MULTIPLE_CHOICE:  # Each sequence is the one choice of its question.
        given = {name: tensor[:, None] for name, tensor in given.items()}
    answer = model(**given, output_hidden_states=True)
    hidden = answer.last_hidden_state if "last_hidden_state" in answer else answer.hidden_states[-1]
    found = {"hidden": hidden[real]}
    if head == QUESTION_ANSWERING:
        found[OUTPUTS] = torch.stack([answer.start_logits, answer.end_logits], -1)[real]
    elif head:
        found[OUTPUTS] = answer.logits[real] if head == TOKEN_CLASSIFICATION else answer.logits
    if "logits" in kept:
        logits = answer.logits[real]
        found["logits"] = logits[kept["positions"]][:, golden.kept_columns(logits.shape[1])]
    return golden.relative_difference(found, kept)


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
