"""Contract of extensions: every check of `encodery.checks.extensions` on every part in the folder."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from encodery import checks
from encodery.base.parts import find_part, part_names
from encodery.checks import extensions
from encodery.model.extensions import ModelExtension

pytestmark = pytest.mark.usefixtures("_poisoned")


@pytest.mark.parametrize("check", checks.functions(extensions), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", part_names(ModelExtension))
def test_contract(name: str, check: checks.Check, run_check: Callable[..., None]) -> None:
    run_check(check, find_part(ModelExtension, name)())
