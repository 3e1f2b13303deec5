"""Contract of the tasks: every check of `encodery.checks.tasks` on every part in the folder."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from encodery import checks
from encodery.base.parts import find_part, part_names
from encodery.checks import tasks
from encodery.finetune.tasks import Task


@pytest.mark.parametrize("check", checks.functions(tasks), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", part_names(Task))  # type: ignore[type-abstract]
def test_contract(name: str, check: checks.Check, run_check: Callable[..., None]) -> None:
    run_check(check, find_part(Task, name)())  # type: ignore[type-abstract]
