"""The checks themselves: tags are known, a tagged check does not run, a part that breaks a promise is found."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from encodery import checks
from encodery.base.parts import Part
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
    found = checks.functions(importlib.import_module(f"encodery.checks.{family}"))
    assert found
    assert all(check.__doc__ for check in found)


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
