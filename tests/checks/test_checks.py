"""The checks themselves: tags are known, a tagged check does not run, a part that violates its contract fails."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from encodery import checks
from encodery.base.errors import ContractError
from encodery.base.parts import Part, contract_at, families
from encodery.checks import corrupt
from encodery.corrupt import Corruption, Vocabulary

FAMILIES = sorted(module.name for module in pkgutil.iter_modules(checks.__path__))


@dataclass(frozen=True, kw_only=True)
class Whole(Corruption):
    """Every sequence is one unit."""

    def unit_starts(self, ids: Tensor, breaks: Tensor, vocabulary: Vocabulary, generator: torch.Generator) -> Tensor:
        return torch.zeros_like(breaks)


@dataclass(frozen=True, kw_only=True)
class Careless(Whole):
    """Writes to its argument."""

    def unit_starts(self, ids: Tensor, breaks: Tensor, vocabulary: Vocabulary, generator: torch.Generator) -> Tensor:
        ids.zero_()
        return torch.zeros_like(breaks)


@dataclass(frozen=True, kw_only=True)
class Excused(Careless):
    """As before, but says so."""

    unsupported: ClassVar[frozenset[str]] = frozenset({"settings_round_trip", "input_is_not_modified"})


@dataclass(frozen=True, kw_only=True)
class Mistaken(Whole):
    """Names a check that does not exist."""

    unsupported: ClassVar[frozenset[str]] = frozenset({"colour"})


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_checks_with_a_docstring(family: str) -> None:
    functions = checks.functions(importlib.import_module(f"encodery.checks.{family}"))
    assert functions
    assert all(check.__doc__ for check in functions)


@pytest.mark.parametrize("family", families())
def test_every_family_of_the_package_has_checks(family: str) -> None:
    contract = contract_at(family)
    assert checks.contract_of(checks.module_of(contract)) is contract


def test_what_is_no_contract_has_no_checks() -> None:
    with pytest.raises(ContractError, match="Whole"):
        checks.module_of(Whole)


def test_checks_run_without_pytest_and_without_the_tests() -> None:
    """An installation has neither; the optional packages are imported by the checks that need them."""
    code = (
        "import importlib, pkgutil, sys; from encodery import checks; "
        "[importlib.import_module(f'encodery.checks.{one.name}') for one in pkgutil.iter_modules(checks.__path__)]; "
        "optional = {'pytest', 'tests', 'datatrove', 'onnx', 'openvino', 'qdrant_edge', 'qdrant_client'}; "
        "assert not optional & set(sys.modules), optional & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_broken_promise_fails_unless_the_part_is_tagged() -> None:
    with pytest.raises(AssertionError, match="apply changed ids"):
        corrupt.check_input_is_not_modified(Careless())
    assert not checks.applies(corrupt.check_input_is_not_modified, Excused())
    assert checks.applies(corrupt.check_labels, Excused())


def test_a_tag_that_names_no_check_is_refused() -> None:
    with pytest.raises(AssertionError, match="colour"):
        checks.run(corrupt, Mistaken())


def test_a_part_outside_the_package_passes() -> None:
    for check in checks.functions(corrupt):
        if check is not corrupt.check_settings_round_trip:  # Needs an importable module.
            check(Whole())


def test_no_part_is_tagged_by_default() -> None:
    assert Part.unsupported == frozenset()
