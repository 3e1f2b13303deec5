"""Contract of optimisers: every check of `encodery.checks.optimizers` on every part in the folder."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from encodery import checks
from encodery.base.parts import find_part, part_names
from encodery.checks import optimizers
from encodery.train.optim import Optimizer

pytestmark = pytest.mark.usefixtures("_poisoned")


@pytest.mark.parametrize("check", checks.functions(optimizers), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", part_names(Optimizer))
def test_contract(name: str, check: checks.Check, run_check: Callable[..., None]) -> None:
    run_check(check, find_part(Optimizer, name)())
