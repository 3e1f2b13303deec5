"""Checks of surgeries, each on a stored model of two layers with a WordPiece tokenizer."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from encodery.base.settings import decode, encode
from encodery.model.load import LoadedModel, load_model, save_model
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch
from encodery.surgery import Surgery, SurgeryResult
from encodery.tokens.kind.wordpiece import Wordpiece
from encodery.tokens.tokenizer import Tokenizer

TEXTS = ["the river ran past the old mill and the miller slept", "a miller mills, a river runs, the mill is old"] * 4
SENTENCE = "the river ran past the old mill"


def example(folder: Path) -> LoadedModel:
    """Store a random model in `folder` and load it."""
    tokenizer = Tokenizer(Wordpiece().train(TEXTS, 90))
    tokenizer.save(folder / "tokenizer")
    settings = ModelSettings(
        width=16, depth=2, heads=2, intermediate_size=16, vocab_size=tokenizer.vocab_size, max_length=16
    )
    save_model(folder / "model", build_model(settings, 1), folder / "tokenizer")
    return load_model(folder / "model")


def operate(part: Surgery, loaded: LoadedModel) -> SurgeryResult:
    """Apply a surgery with a generator of a fixed seed, on batches if it needs any."""
    texts = [ids.tolist() for ids in loaded.tokenizer.encode_batch(TEXTS, add_special_tokens=True)]
    batches = [Batch.from_sequences([ids[:16] for ids in texts])] if part.needs_texts else []
    return part.operate(loaded, torch.Generator().manual_seed(0), batches)


def check_settings_round_trip(part: Surgery) -> None:
    """The part is what its settings decode to."""
    assert decode(Surgery, encode(part)) == part


def check_input_is_not_modified(part: Surgery) -> None:
    """The loaded model stays as it is; the result has other settings and metrics."""
    with tempfile.TemporaryDirectory() as folder:
        loaded = example(Path(folder))
        before = {key: tensor.clone() for key, tensor in loaded.model.state_dict().items()}
        result = operate(part, loaded)
        assert all(torch.equal(tensor, before[key]) for key, tensor in loaded.model.state_dict().items())
        assert result.model.settings != loaded.model.settings
        assert result.metrics


def check_result_can_be_stored(part: Surgery) -> None:
    """The result computes finite states, and the same ones after it was stored and loaded."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loaded = example(folder / "before")
        result = operate(part, loaded)
        tokenizer = result.tokenizer or loaded.tokenizer
        batch = Batch.from_sequences([tokenizer.encode(SENTENCE, add_special_tokens=True).tolist()])
        hidden = result.model(batch).hidden
        assert hidden.isfinite().all()
        tokenizer.save(folder / "tokenizer")
        save_model(folder / "model", result.model, folder / "tokenizer")
        stored = load_model(folder / "model")
        assert torch.equal(stored.model(batch).hidden, hidden)
        assert stored.tokenizer.fingerprint == tokenizer.fingerprint
