"""Contract of the miners of negatives: every check of `encodery.checks.negatives` on every part in the folder."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from encodery import checks
from encodery.base.parts import find_part, part_names
from encodery.checks import negatives
from encodery.embed.negatives import NegativeMiner


@pytest.mark.parametrize("check", checks.functions(negatives), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", part_names(NegativeMiner))
def test_contract(name: str, check: checks.Check, run_check: Callable[..., None]) -> None:
    run_check(check, negatives.example_part(find_part(NegativeMiner, name)))
