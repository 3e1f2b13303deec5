"""Contract of language-model heads: every check of `encodery.checks.lm_heads` on every part in the folder."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from encodery import checks
from encodery.base.parts import find_part, part_names
from encodery.checks import lm_heads
from encodery.model.heads import LMHead

pytestmark = pytest.mark.usefixtures("_poisoned")


@pytest.mark.parametrize("check", checks.functions(lm_heads), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", part_names(LMHead))
def test_contract(name: str, check: checks.Check, run_check: Callable[..., None]) -> None:
    run_check(check, find_part(LMHead, name)())
