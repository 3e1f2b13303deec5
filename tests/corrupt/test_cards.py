"""The settings on the cards of the masking papers decode to the values of the papers."""

from __future__ import annotations

import shlex
import tomllib
from pathlib import Path

import pytest

from encodery.base.settings import decode_with_overrides, parse_overrides
from encodery.objectives import Objective
from encodery.objectives.mlm import MaskedLM


@pytest.mark.parametrize(
    ("card", "first", "last", "mask"),
    [("should_you_mask_15", 0.4, 0.4, 1.0), ("dynamic_masking_rates", 0.3, 0.15, 0.8)],
)
def test_settings_of_a_card_decode(card: str, first: float, last: float, mask: float, repository: Path) -> None:
    table = tomllib.loads((repository / "papers" / f"{card}.toml").read_text(encoding="utf-8"))
    settings = [word for word in shlex.split(table["command"]) if word.startswith("objective.")]
    objective = decode_with_overrides(Objective, {"is": "mlm"}, parse_overrides(settings)["objective"])
    assert isinstance(objective, MaskedLM)
    assert objective.corruption.rate(0.0) == first
    assert objective.corruption.rate(1.0) == last
    assert objective.corruption.mask == mask
