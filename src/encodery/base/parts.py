"""Parts and families: the folder is the registry, the file's name is the part's name.

A *contract* is an abstract class defined in the `__init__` of its family's folder; a *part* is a frozen
dataclass, the one public class of a module in that folder. Nothing central knows the parts: they are found by
where they lie. A dotted path (`my_project.attention.mine`) reaches a part outside the package.
"""

from __future__ import annotations

import abc
import ast
import functools
import importlib
import importlib.util
import inspect
import pkgutil
from pathlib import Path
from typing import TypeVar

from encodery.base.errors import ContractError, UnknownName, nearest

ROOT = "encodery"


class Part(abc.ABC):  # noqa: B024
    """Root of every contract: a contract derives from `Part` directly, a part derives from a contract."""


P = TypeVar("P", bound=Part)


def is_contract(cls: type) -> bool:
    """Whether `cls` is a contract, that is, derives from `Part` directly."""
    return Part in cls.__bases__


@functools.cache
def _places() -> tuple[Path, ...]:
    """The folders that hold the package's own folder."""
    spec = importlib.util.find_spec(ROOT)
    return tuple(Path(place).parent for place in (spec and spec.submodule_search_locations) or ())


def _source(module_name: str) -> Path | None:
    """The file of a module. In the package it is found by place, since finding it by import imports its parents."""
    for place in _places():
        stem = place / module_name.replace(".", "/")
        for path in (stem.with_suffix(".py"), stem / "__init__.py"):
            if path.is_file():
                return path
    spec = importlib.util.find_spec(module_name)
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


@functools.cache
def _listing(package: str) -> tuple[tuple[str, bool], ...]:
    """(module name, is a folder) for each public entry of a package, without importing any of them."""
    init = _source(package)
    found = pkgutil.iter_modules([str(init.parent)]) if init is not None and init.name == "__init__.py" else ()
    return tuple(sorted((m.name, m.ispkg) for m in found if not m.name.startswith("_")))


@functools.cache
def _names(package: str) -> tuple[str, ...]:
    names: list[str] = []
    for name, is_folder in _listing(package):
        names += [f"{name}.{inner}" for inner in _names(f"{package}.{name}")] if is_folder else [name]
    return tuple(names)


def part_names(contract: type[Part]) -> list[str]:
    """The parts that lie in the contract's family, by file name; nothing is imported."""
    return list(_names(contract.__module__))


def find_part(contract: type[P], name: str) -> type[P]:
    """The part called `name` in the contract's family, or at that dotted path outside the package.

    Raises `UnknownName` naming the family and the nearest part, `ContractError` if the module breaks the rules.
    """
    family = contract.__module__
    if name in _names(family):
        module_name = f"{family}.{name}"
    elif "." in name and not name.startswith(f"{ROOT}.") and _exists(name):
        module_name = name
    else:
        known = part_names(contract)
        kind = family.removeprefix(f"{ROOT}.")
        raise UnknownName(f"{kind}: there is no '{name}'.{nearest(name, known)} Known: {', '.join(known)}.")
    module = importlib.import_module(module_name)
    parts = [
        value
        for key, value in vars(module).items()
        if inspect.isclass(value)
        and not key.startswith("_")
        and value.__module__ == module_name
        and issubclass(value, contract)
    ]
    if len(parts) != 1:
        raise ContractError(f"{module_name} must define exactly one public {contract.__name__}, it has {len(parts)}.")
    return parts[0]


def _exists(module_name: str) -> bool:
    try:
        return importlib.util.find_spec(module_name) is not None
    except (ImportError, ValueError):
        return False


def name_of(part: Part | type[Part]) -> str:
    """The name by which a recipe calls this part."""
    cls = part if isinstance(part, type) else type(part)
    family = contract_of(cls).__module__
    return cls.__module__.removeprefix(f"{family}.")


def contract_of(cls: type[Part]) -> type[Part]:
    """The contract a part fulfils."""
    for base in cls.__mro__:
        if is_contract(base):
            return base
    raise ContractError(f"{cls.__module__}.{cls.__qualname__} fulfils no contract.")


def part_summary(contract: type[Part], name: str) -> str:
    """First line of the docstring of a part's module, read without importing it."""
    return module_summary(f"{contract.__module__}.{name}")


def module_summary(module_name: str) -> str:
    """First line of a module's docstring, read from its source; empty where there is none."""
    path = _source(module_name)
    if path is None:
        return ""
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return doc.splitlines()[0] if doc else ""


def families() -> dict[str, str]:
    """Every family of the package (`model.attention`) and the first docstring line of its folder; imports none."""
    found: dict[str, str] = {}
    _collect(ROOT, found)
    return found


def parts_of(family: str) -> dict[str, str]:
    """Each part of a family (`model.attention`) and its first docstring line; nothing is imported.

    Raises `UnknownName` with the nearest family.
    """
    known = families()
    if family not in known:
        raise UnknownName(f"There is no family '{family}'.{nearest(family, known)} Known: {', '.join(known)}.")
    return {name: module_summary(f"{ROOT}.{family}.{name}") for name in _names(f"{ROOT}.{family}")}


def _collect(package: str, found: dict[str, str]) -> None:
    for name, is_folder in _listing(package):
        if not is_folder:
            continue
        inner = f"{package}.{name}"
        if _defines_contract(inner):
            found[inner.removeprefix(f"{ROOT}.")] = module_summary(inner)
        else:
            _collect(inner, found)


def contract_at(family: str) -> type[Part]:
    """The contract of a family given as `model.attention`. Raises `UnknownName` with the nearest family."""
    known = families()
    if family not in known:
        raise UnknownName(f"There is no family '{family}'.{nearest(family, known)} Known: {', '.join(known)}.")
    module = importlib.import_module(f"{ROOT}.{family}")
    for value in vars(module).values():
        if inspect.isclass(value) and value.__module__ == module.__name__ and issubclass(value, Part):
            return value
    raise ContractError(f"{module.__name__} states no contract.")


def _defines_contract(package: str) -> bool:
    """Whether the package's `__init__` defines an abstract class that derives from `Part`; read, not imported."""
    path = _source(package)
    if path is None:
        return False
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bases = (base for node in tree.body if isinstance(node, ast.ClassDef) for base in node.bases)
    return any(isinstance(base, ast.Name) and base.id == "Part" for base in bases)
