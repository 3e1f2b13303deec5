"""Contract of pruning: every check of `encodery.checks.prune` on every part in the folder."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from encodery import checks
from encodery.base.parts import find_part, part_names
from encodery.checks import prune
from encodery.compress.prune import Pruning


@pytest.mark.parametrize("check", checks.functions(prune), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", part_names(Pruning))
def test_contract(name: str, check: checks.Check, run_check: Callable[..., None]) -> None:
    run_check(check, find_part(Pruning, name)())
