"""Whether an export computes what the model computes: read back here, and by transformers if it is installed.

Shapes: T tokens, B sequences, L the longest of them, M positions, C columns of the vocabulary.
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
from encodery.export._heads import OUTPUTS, auto_class
from encodery.finetune.artifact import golden_outputs, imported_head
from encodery.finetune.imported import MULTIPLE_CHOICE, QUESTION_ANSWERING, TOKEN_CLASSIFICATION
from encodery.finetune.preprocess import Preprocessor
from encodery.model import golden as golden_vectors
from encodery.model.format_types import HeadKind
from encodery.model.imported_folder import import_folder
from encodery.model.load import LoadedModel, load_model

TOLERANCE = {"float32": 5e-5, "float16": 2e-2, "bfloat16": 1e-1}
"""Allowed drift relative to the largest value, by the precision of the weights."""
PEER = "transformers"
SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "  Ünïcödé, naïve café; 東京 1,234.56 — “quotes” & e-mail@host.org\n\ttabs",
    "don't re-tokenise: snake_case, camelCase, C++ x==y?",
    "",
)


def check_read_back(folder: Path, golden: dict[str, Tensor], dtype: str, format_name: str) -> float:
    """Return the drift of the folder as this package reads it in the checkpoint format.

    Raises `ArtifactError` if it is too large.
    """
    drift = golden_vectors.drift(import_folder(folder, format_name).model, golden)
    if OUTPUTS in golden:
        loaded = load_model(folder, checkpoint_format=format_name)
        head = imported_head(loaded)
        outputs = {} if head is None else {OUTPUTS: golden_outputs(loaded.model, head.module, golden)}
        drift = max(drift, golden_vectors.relative_difference(outputs, golden) if outputs else math.inf)
    _check_drift(drift, dtype, "read back")
    return drift


def check_peer(
    folder: Path,
    golden: dict[str, Tensor],
    dtype: str,
    config: dict[str, Any],
    stock_class: str,
    head: HeadKind | None,
) -> dict[str, Any]:
    """Return the drift of the folder as transformers reads it; {} if that is not installed.

    Raises `ArtifactError` if the drift is too large, or if transformers misses a weight of a task's head.
    """
    if importlib.util.find_spec(PEER) is None:
        return {}
    with _quiet_peer() as peer:
        try:
            model, info = getattr(peer, auto_class(stock_class)).from_pretrained(
                folder, dtype=torch.float32, output_loading_info=True
            )
        except Exception as error:
            raise ArtifactError(
                f"{PEER} {peer.__version__} cannot load the export: {error}. With verify_with_peer=false it is written "
                "without this check."
            ) from error
        if head and (info["missing_keys"] or info["unexpected_keys"]):
            different = sorted({*info["missing_keys"], *info["unexpected_keys"]})
            raise ArtifactError(
                f"{PEER} {peer.__version__} and the export disagree on tensors: {', '.join(different)}."
            )
        drift = _peer_drift(model.eval(), golden, config.get("pad_token_id") or 0, head)
    _check_drift(drift, dtype, f"run by {PEER} {peer.__version__}")
    return {"drift_transformers": drift, "transformers": peer.__version__}


def check_tokenizer(folder: Path, loaded: LoadedModel, pairs: bool) -> dict[str, Any]:
    """Check that `AutoTokenizer` gives our ids, for `pairs` of texts too; {} if there is nothing to compare.

    Raises `ArtifactError` if the ids differ.
    """
    if loaded.tokenizer_path is None or importlib.util.find_spec(PEER) is None:
        return {}
    with _quiet_peer() as peer:
        tokenizer = peer.AutoTokenizer.from_pretrained(folder)
        their_ids = [tokenizer(text)["input_ids"] for text in SENTENCES]
    our_ids = loaded.tokenizer.encode_batch(SENTENCES, add_special_tokens=True)
    for text, ours, theirs in zip(SENTENCES, our_ids, their_ids, strict=True):
        if ours.tolist() != theirs:
            raise ArtifactError(
                f"The tokenizer of {PEER} gives {theirs} for {text!r}, but the model's tokenizer gives {ours.tolist()}."
            )
    if pairs:
        _check_pair(tokenizer, loaded)
    return {"tokenizer_ids_equal": True}


def _check_pair(tokenizer: Any, loaded: LoadedModel) -> None:
    """Raise `ArtifactError` if their tokenizer combines two texts in another way than the model reads them."""
    settings, pair = loaded.model.settings, SENTENCES[::2]
    theirs = tokenizer(*pair, truncation=False)
    preprocessor = Preprocessor(loaded.tokenizer, max(settings.max_length, 8), settings.type_vocab_size > 1, "error")
    first, second = (ids.astype("int64") for ids in loaded.tokenizer.encode_batch(pair))
    ours = preprocessor.pair(first, second)
    segments = [int(position >= ours.second_start) for position in range(len(ours.ids))]
    same = theirs["input_ids"] == ours.ids.tolist()
    if not same or (preprocessor.uses_segments and theirs.get("token_type_ids") != segments):
        raise ArtifactError(f"The tokenizer of {PEER} combines the two texts of a pair in another way than the model.")


@torch.inference_mode()
def _peer_drift(model: Any, golden: dict[str, Tensor], pad: int, head: HeadKind | None) -> float:
    """The drift of their outputs from the golden ones, which are computed in one padded batch (B, L)."""
    lengths = golden["cu_seqlens"].long().diff()
    real = torch.arange(int(lengths.max())) < lengths[:, None]
    inputs = {"input_ids": torch.full(real.shape, pad), "attention_mask": real.long()}
    inputs["input_ids"][real] = golden["ids"]
    if "segment" in golden:
        inputs["token_type_ids"] = torch.zeros(real.shape, dtype=torch.int64)
        inputs["token_type_ids"][real] = golden["segment"]
    if head == MULTIPLE_CHOICE:  # Each sequence is the only choice of its question.
        inputs = {name: tensor[:, None] for name, tensor in inputs.items()}
    output = model(**inputs, output_hidden_states=True)
    hidden = output.last_hidden_state if "last_hidden_state" in output else output.hidden_states[-1]
    theirs = {"hidden": hidden[real]}
    if head == QUESTION_ANSWERING:
        theirs[OUTPUTS] = torch.stack([output.start_logits, output.end_logits], -1)[real]
    elif head:
        theirs[OUTPUTS] = output.logits[real] if head == TOKEN_CLASSIFICATION else output.logits
    theirs |= _pretraining_logits(output, golden, real)
    return golden_vectors.relative_difference(theirs, golden)


def _pretraining_logits(output: Any, golden: dict[str, Tensor], real: Tensor) -> dict[str, Tensor]:
    """What their heads of pre-training give; a class with several has one output for each, the vocabulary's first."""
    names = [name for name in golden if name == "logits" or name.startswith(golden_vectors.SCORES)]
    if not names:
        return {}
    fields = [tensor for name, tensor in output.items() if name.endswith("logits")]
    theirs = dict(zip(sorted(names), fields, strict=True))
    for name, logits in theirs.items():
        theirs[name] = logits[real] if logits.shape[:2] == real.shape else logits
    if "logits" in theirs:
        logits = theirs["logits"]
        theirs["logits"] = logits[golden["positions"]][:, golden_vectors.kept_columns(logits.shape[1])]
    return theirs


def _check_drift(drift: float, dtype: str, how: str) -> None:
    allowed = TOLERANCE[dtype]
    if not drift <= allowed:
        raise ArtifactError(
            f"The export's outputs drift from the model's: {how}, they differ by {drift:.1e} of the largest value, and "
            f"{allowed:.0e} is allowed. Nothing was written."
        )


@contextlib.contextmanager
def _quiet_peer() -> Iterator[Any]:
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
