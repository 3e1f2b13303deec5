"""Contract of the corpus steps: the checks of `encodery.checks` for the four families on every part in the folders."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

from encodery import checks
from encodery.base.parts import Part, find_part, name_of, part_names, part_summary
from encodery.checks import dedup, filters, readers, rewrites
from encodery.corpus.steps.dedup import Dedup
from encodery.corpus.steps.filter import Filter
from encodery.corpus.steps.read import FileReader
from encodery.corpus.steps.rewrite import Rewrite

FAMILIES: dict[type[Part], ModuleType] = {FileReader: readers, Rewrite: rewrites, Filter: filters, Dedup: dedup}
PARTS = [find_part(contract, name)() for contract in FAMILIES for name in part_names(contract)]
CASES = [
    pytest.param(part, check, id=f"{name_of(part)}-{check.__name__}")
    for part in PARTS
    for contract, family in FAMILIES.items()
    if isinstance(part, contract)
    for check in checks.functions(family)
]


@pytest.mark.parametrize(("part", "check"), CASES)
def test_contract(part: Part, check: checks.Check, run_check: Callable[..., None]) -> None:
    run_check(check, part)


@pytest.mark.parametrize("contract", FAMILIES)
def test_a_part_has_a_summary(contract: type[Part]) -> None:
    for name in part_names(contract):
        assert name_of(find_part(contract, name)) == name
        assert part_summary(contract, name)
