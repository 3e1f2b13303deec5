"""The cards of the masking papers name parts that exist and settings that decode."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from encodery.base.parts import contract_at, names
from encodery.base.settings import overrides, with_overrides
from encodery.objectives import Objective
from encodery.objectives.mlm import MLM

FIELDS = {"title", "arxiv", "name", "parts", "settings", "recipe", "run", "claim", "ours", "status", "note"}


@pytest.mark.parametrize("card", ["should-you-mask-15", "dynamic-masking-rates"])
def test_card_resolves(card: str, repository: Path) -> None:
    table = tomllib.loads((repository / "papers" / f"{card}.toml").read_text())
    assert {"title", "name", "parts", "run", "claim", "ours", "status"} <= set(table) <= FIELDS
    assert table["status"] in ("sketch", "runs", "reproduced")
    for part in table["parts"]:
        family, _, name = part.rpartition(".")
        assert name in names(contract_at(family))
    laid = overrides(table["settings"])["objective"]
    objective = with_overrides(Objective, {"is": "mlm"}, laid)
    assert isinstance(objective, MLM)
    assert objective.corruption.rate(0.0) == max(0.3, objective.corruption.rate(1.0))
