"""Contract of data-dependent initialisation: every check of `encodery.checks.data_init` on every part in the folder."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from encodery import checks
from encodery.base.parts import find_part, part_names
from encodery.checks import data_init
from encodery.train.data_init import DataInit


@pytest.mark.parametrize("check", checks.functions(data_init), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", part_names(DataInit))
def test_contract(name: str, check: checks.Check, run_check: Callable[..., None]) -> None:
    run_check(check, find_part(DataInit, name)())
