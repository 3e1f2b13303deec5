"""Contract of the extra heads: every check of `encodery.checks.extra_heads` on every part in the folder."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from encodery import checks
from encodery.base.parts import find_part, part_names
from encodery.checks import extra_heads
from encodery.model.extra_heads import ExtraHead


@pytest.mark.parametrize("check", checks.functions(extra_heads), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", part_names(ExtraHead))
def test_contract(name: str, check: checks.Check, run_check: Callable[..., None]) -> None:
    run_check(check, find_part(ExtraHead, name)())
