"""Checks of the contracts: what every part of a family must do, as functions that any test can call.

`encodery.checks.<family>` holds functions `check_<property>(part)`, which raise `AssertionError` if the part lacks the
property. The tests of the package run them on all its parts; run them on a part of your own in the same way:

    from encodery import checks
    from encodery.checks import corrupt

    def test_my_corruption():
        checks.run(corrupt, MyCorruption())

`module_of(contract)` returns the module of a family. A part that lacks an optional ability names it in `unsupported`, a
set of check names without the prefix `check_`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from types import ModuleType
from typing import Any, get_type_hints

from encodery.base.errors import ContractError
from encodery.base.parts import Part

Check = Callable[..., Any]
PREFIX = "check_"


def contract_of(family: ModuleType) -> type[Part]:
    """Return the contract that a module such as `encodery.checks.corrupt` checks: the type of the checked parts."""
    (contract,) = {next(iter(get_type_hints(check).values())) for check in functions(family)}
    return contract  # type: ignore[no-any-return]


def module_of(contract: type[Part]) -> ModuleType:
    """Return the module with the checks of a contract such as `encodery.corrupt.Corruption`.

    Raises `ContractError` if there is none.
    """
    for entry in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{entry.name}")
        if contract_of(module) is contract:
            return module
    raise ContractError(f"No module of {__name__} checks {contract.__module__}.{contract.__qualname__}.")


def functions(family: ModuleType) -> list[Check]:
    """Return the check functions of a module such as `encodery.checks.corrupt`, in the order of the source."""
    members = vars(family).items()
    return [member for name, member in members if name.startswith(PREFIX) and member.__module__ == family.__name__]


def applies(check: Check, part: Part) -> bool:
    """Return whether a check applies to a part, that is, whether the part does not name it in `unsupported`."""
    return check.__name__.removeprefix(PREFIX) not in part.unsupported


def unknown_tags(family: ModuleType, part: Part) -> set[str]:
    """Return the names in `part.unsupported` that are no check of the family."""
    return set(part.unsupported) - {check.__name__.removeprefix(PREFIX) for check in functions(family)}


def run(family: ModuleType, part: Part, *arguments: object) -> None:
    """Run every check of a family that applies to a part. Raises `AssertionError` from the first one that fails.

    `arguments`: what the checks of some families take besides the part, such as the data of `encodery.checks.suites`.
    """
    unknown = unknown_tags(family, part)
    assert not unknown, f"{type(part).__name__}.unsupported names no check of {family.__name__}: {sorted(unknown)}"
    for check in functions(family):
        if applies(check, part):
            check(part, *arguments)


def raised_message(kind: type[Exception], call: Callable[[], object]) -> str:
    """Return the message of the exception that a call raises. Raises `AssertionError` if it raises none of `kind`."""
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(f"{kind.__name__} was not raised")
