"""Contract of quantisation: every check of `encodery.checks.quantize` on every part in the folder."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from encodery import checks
from encodery.base.parts import find_part, part_names
from encodery.checks import quantize
from encodery.compress.quantize import Quantization


@pytest.mark.parametrize("check", checks.functions(quantize), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", part_names(Quantization))
def test_contract(name: str, check: checks.Check, run_check: Callable[..., None]) -> None:
    run_check(check, find_part(Quantization, name)())
