"""Contract of the corruptions: every check of `encodery.checks.corrupt` on every part in the folder."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from encodery import checks
from encodery.base.parts import find_part, part_names
from encodery.checks import corrupt
from encodery.corrupt import Corruption


@pytest.mark.parametrize("check", checks.functions(corrupt), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", part_names(Corruption))
def test_contract(name: str, check: checks.Check, run_check: Callable[..., None]) -> None:
    run_check(check, find_part(Corruption, name)())
