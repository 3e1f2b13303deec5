"""Contract of distillation: every check of `encodery.checks.distill` on every part in the folder."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from encodery import checks
from encodery.base.parts import find_part, part_names
from encodery.checks import distill
from encodery.compress.distill import Distillation


@pytest.mark.parametrize("check", checks.functions(distill), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", part_names(Distillation))
def test_contract(name: str, check: checks.Check, run_check: Callable[..., None]) -> None:
    run_check(check, find_part(Distillation, name)())
