"""Contract of text generators: every check of `encodery.checks.generate` on every part in the folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from encodery import checks
from encodery.base.parts import part_names
from encodery.base.settings import decode
from encodery.checks import generate
from encodery.generate import TextGenerator

SETTINGS: dict[str, dict[str, Any]] = {"fill": {"top_k": 64}}
"""More proposals than there are tokens, so that an unlikely token that is not allowed would be found."""


@pytest.mark.parametrize("check", checks.functions(generate), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", part_names(TextGenerator))
def test_contract(name: str, check: checks.Check, run_check: Callable[..., None]) -> None:
    run_check(check, decode(TextGenerator, {"is": name, **SETTINGS.get(name, {})}))
