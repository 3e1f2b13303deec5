"""Parts and families: the folder is the registry, and the name of a part is the name of its file.

A *contract* is an abstract class defined in the `__init__` of a family's folder. A *part* is a frozen dataclass, the
only public class of a module in that folder. There is no central list of parts: they are looked up in the folder. A
dotted path (`my_project.attention.mine`) refers to a part outside the package.
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
from typing import ClassVar, TypeVar

from encodery.base.errors import ContractError, UnknownName, nearest

ROOT = "encodery"


class Part(abc.ABC):  # noqa: B024
    """Base class of all contracts: a contract derives from `Part` directly, a part derives from a contract.

    `unsupported`: names of the checks in `encodery.checks.<family>`, without `check_`, that do not apply to a part.
    """

    unsupported: ClassVar[frozenset[str]] = frozenset()


P = TypeVar("P", bound=Part)


def is_contract(cls: type) -> bool:
    """Return whether a class is a contract, that is, derives from `Part` directly."""
    return Part in cls.__bases__


@functools.cache
def _package_roots() -> tuple[Path, ...]:
    """Return the folders that contain the folder of the package."""
    spec = importlib.util.find_spec(ROOT)
    return tuple(Path(location).parent for location in (spec and spec.submodule_search_locations) or ())


def _source(module_name: str) -> Path | None:
    """Return the file of a module.

    Inside the package the path is built from the name, because `find_spec` would import the parent packages.
    """
    for root in _package_roots():
        stem = root / module_name.replace(".", "/")
        for path in (stem.with_suffix(".py"), stem / "__init__.py"):
            if path.is_file():
                return path
    spec = importlib.util.find_spec(module_name)
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


@functools.cache
def _listing(package: str) -> tuple[tuple[str, bool], ...]:
    """Return (module name, whether it is a folder) of each public entry of a package; nothing is imported."""
    init = _source(package)
    modules = pkgutil.iter_modules([str(init.parent)]) if init is not None and init.name == "__init__.py" else ()
    return tuple(sorted((m.name, m.ispkg) for m in modules if not m.name.startswith("_")))


@functools.cache
def _names(package: str) -> tuple[str, ...]:
    names: list[str] = []
    for name, is_folder in _listing(package):
        names += [f"{name}.{inner}" for inner in _names(f"{package}.{name}")] if is_folder else [name]
    return tuple(names)


def part_names(contract: type[Part]) -> list[str]:
    """Return the names of the parts of a contract's family; nothing is imported."""
    return list(_names(contract.__module__))


def find_part(contract: type[P], name: str) -> type[P]:
    """Return the part with a name in the contract's family, or at a dotted path outside the package.

    Raises `UnknownName` naming the family and the nearest part, and `ContractError` if the module does not define
    exactly one public part.
    """
    family = contract.__module__
    if name in _names(family):
        module_name = f"{family}.{name}"
    elif "." in name and not name.startswith(f"{ROOT}.") and module_exists(name):
        module_name = name
    else:
        known = part_names(contract)
        kind = family.removeprefix(f"{ROOT}.")
        raise UnknownName(f"{kind}: there is no part '{name}'.{nearest(name, known)} Parts: {', '.join(known)}.")
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
        raise ContractError(
            f"{module_name} must define exactly one public {contract.__name__}, but it defines {len(parts)}."
        )
    return parts[0]


def module_exists(module_name: str) -> bool:
    """Return whether a module can be found; packages above it are imported."""
    try:
        return importlib.util.find_spec(module_name) is not None
    except (ImportError, ValueError):
        return False


def name_of(part: Part | type[Part]) -> str:
    """Return the name of a part in a recipe."""
    cls = part if isinstance(part, type) else type(part)
    family = contract_of(cls).__module__
    return cls.__module__.removeprefix(f"{family}.")


def contract_of(cls: type[Part]) -> type[Part]:
    """Return the contract of a part. Raises `ContractError` if the class does not derive from one."""
    for base in cls.__mro__:
        if is_contract(base):
            return base
    raise ContractError(f"{cls.__module__}.{cls.__qualname__} fulfils no contract.")


def part_summary(contract: type[Part], name: str) -> str:
    """Return the first line of the docstring of a part's module; the module is not imported."""
    return module_summary(f"{contract.__module__}.{name}")


def module_summary(module_name: str) -> str:
    """Return the first line of a module's docstring, read from its source; empty if it has none."""
    path = _source(module_name)
    if path is None:
        return ""
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return doc.splitlines()[0] if doc else ""


def families() -> dict[str, str]:
    """Return every family of the package (`model.attention`) with the first line of its docstring; imports nothing."""
    summaries: dict[str, str] = {}
    _collect(ROOT, summaries)
    return summaries


def parts_of(family: str) -> dict[str, str]:
    """Return each part of a family (`model.attention`) with the first line of its docstring; nothing is imported.

    Raises `UnknownName` with the nearest family.
    """
    _check_family(family)
    return {name: module_summary(f"{ROOT}.{family}.{name}") for name in _names(f"{ROOT}.{family}")}


def _check_family(family: str) -> None:
    known = families()
    if family not in known:
        raise UnknownName(f"There is no family '{family}'.{nearest(family, known)} Families: {', '.join(known)}.")


def _collect(package: str, summaries: dict[str, str]) -> None:
    for name, is_folder in _listing(package):
        if not is_folder:
            continue
        inner = f"{package}.{name}"
        if _defines_contract(inner):
            summaries[inner.removeprefix(f"{ROOT}.")] = module_summary(inner)
        else:
            _collect(inner, summaries)


def contract_at(family: str) -> type[Part]:
    """Return the contract of a family such as `model.attention`. Raises `UnknownName` with the nearest family."""
    _check_family(family)
    module = importlib.import_module(f"{ROOT}.{family}")
    for value in vars(module).values():
        if inspect.isclass(value) and value.__module__ == module.__name__ and issubclass(value, Part):
            return value
    raise ContractError(f"{module.__name__} defines no contract.")


def _defines_contract(package: str) -> bool:
    """Return whether the `__init__` of a package defines a class that derives from `Part`; it is not imported."""
    path = _source(package)
    if path is None:
        return False
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bases = (base for node in tree.body if isinstance(node, ast.ClassDef) for base in node.bases)
    return any(isinstance(base, ast.Name) and base.id == "Part" for base in bases)
