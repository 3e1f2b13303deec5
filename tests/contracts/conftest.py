"""How a contract test runs one check of `encodery.checks` on one part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from encodery.base.parts import Part, name_of
from encodery.checks import Check, applies


@pytest.fixture
def run_check() -> Callable[..., None]:
    """`run_check(check, part, ...)`: run a check, or skip it if the part names it in `unsupported`."""

    def run(check: Check, part: Part, *arguments: Any) -> None:
        if not applies(check, part):
            pytest.skip(f"{name_of(part)} names {check.__name__} in `unsupported`")
        check(part, *arguments)

    return run
