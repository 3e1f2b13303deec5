"""The checks of a family hold for parts outside the package, which recipes name by a dotted path."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from encodery import checks
from encodery.base.parts import contract_at, find_part, name_of
from encodery.base.settings import decode

BUILT_IN = {
    "corpus.steps.dedup": "exact",
    "corpus.steps.filter": "length",
    "corpus.steps.rewrite": "whitespace",
    "corrupt": "token",
    "encoders.pooling": "mean",
    "evaluate.systems": "bm25",
    "model.attention": "full",
    "model.blocks": "post",
    "model.embeddings": "plain",
    "model.ffn": "mlp",
    "model.heads": "mlm",
    "model.init": "normal",
    "model.masks": "window",
    "model.norms": "layer",
    "model.positions": "learned",
    "train.hooks": "ema",
    "train.optim": "adamw",
}
"""A part of the package, which the part outside derives from."""
MODULE = '''
from dataclasses import dataclass

import {module}


@dataclass(frozen=True, kw_only=True)
class Outside({module}.{name}):
    """A part of another project."""
'''


@pytest.mark.parametrize(("family", "name"), BUILT_IN.items())
def test_a_part_outside_the_package(family: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contract = contract_at(family)
    base = find_part(contract, name)
    package = f"outside_{family.replace('.', '_')}"
    (tmp_path / package).mkdir()
    text = MODULE.format(module=base.__module__, name=base.__name__)
    (tmp_path / package / "mine.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    part = decode(contract, f"{package}.mine")
    assert name_of(part) == f"{package}.mine"
    checks.run(checks.module_of(contract), part)
