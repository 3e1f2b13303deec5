"""Contract of surgery: whatever parts lie in the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from encodery.base.parts import part_names
from encodery.base.settings import decode, encode
from encodery.model.load import LoadedModel, load_model, save_model
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch
from encodery.surgery import Surgery
from encodery.tokens.kind.bpe import Bpe
from encodery.tokens.kind.wordpiece import Wordpiece
from encodery.tokens.tokenizer import Tokenizer

TEXTS = ["the river ran past the old mill and the miller slept", "a miller mills, a river runs, the mill is old"] * 4


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tmp_path_factory.mktemp("given")
    tokenizer = Tokenizer(Wordpiece().train(TEXTS, 90))
    tokenizer.save(folder / "tokenizer")
    settings = ModelSettings(
        width=16, depth=1, heads=2, intermediate_size=16, vocab_size=tokenizer.vocab_size, max_length=16
    )
    save_model(folder / "model", build_model(settings, 1), folder / "tokenizer")
    return load_model(folder / "model")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("tables")
    Tokenizer(Bpe().train(TEXTS, 300)).save(folder / "bpe")
    return {
        "lengthen": {"max_length": 40},
        "vocabulary": {"tokenizer": str(folder / "bpe")},
        "grow": {"width": 32, "depth": 2},
        "tile": {"width": 32, "depth": 2},
        "coalesce": {},
    }


@pytest.mark.parametrize("name", part_names(Surgery))
def test_what_every_surgery_promises(
    name: str, given: LoadedModel, tables: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    part = decode(Surgery, {"is": name, **tables[name]})
    assert decode(Surgery, encode(part)) == part
    before = {key: tensor.clone() for key, tensor in given.model.state_dict().items()}
    changed = part.operate(given, torch.Generator().manual_seed(0))
    assert all(torch.equal(tensor, before[key]) for key, tensor in given.model.state_dict().items())
    assert changed.model.settings != given.model.settings
    assert changed.metrics
    tokenizer = changed.tokenizer or given.tokenizer
    ids = tokenizer.encode("the river ran past the old mill", add_special_tokens=True).tolist()
    hidden = changed.model(Batch.from_sequences([ids])).hidden
    assert hidden.isfinite().all()
    tokenizer.save(tmp_path / "tokenizer")
    save_model(tmp_path / "model", changed.model, tmp_path / "tokenizer")
    again = load_model(tmp_path / "model")
    assert torch.equal(again.model(Batch.from_sequences([ids])).hidden, hidden)
    assert again.tokenizer.fingerprint == tokenizer.fingerprint
