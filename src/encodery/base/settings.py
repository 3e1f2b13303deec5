"""Settings: decode tables (TOML, JSON, command line) into frozen dataclasses, strictly, and encode them again.

The structure is decoded here: unknown keys are refused with the nearest name, and parts are looked up in the folder of
their family. Single values are validated by pydantic. In the table of a part, `is` names the part and the other keys
are its fields.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from encodery.base.errors import EncoderyError, SettingsError, UnknownName, nearest
from encodery.base.parts import Part, contract_of, find_part, is_contract, name_of, part_names
from encodery.base.schedule import NUMBER, Schedule

T = TypeVar("T")
Table = dict[str, Any]
PART_KEY = "is"
INTERVAL = re.compile(rf"(?:({NUMBER}) (<=?) )?x(?: (<=?) ({NUMBER}))?")


def decode(cls: type[T], table: Mapping[str, Any], where: str = "settings") -> T:
    """Return an instance of a dataclass, or a part of a contract, from a table.

    Args:
        where: the start of the path with which error messages name a setting.

    Raises `SettingsError` naming the path of the setting, the value, what is allowed and the nearest name.
    """
    value = _value(cls, table, where)
    return typing.cast(T, value)


def encode(value: Any) -> Any:
    """Return the table (plain dicts, lists, numbers, strings) from which `decode` makes an equal object."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type | Schedule):
        table = {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        return {PART_KEY: name_of(value), **table} if isinstance(value, Part) else table
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if isinstance(value, Schedule):
        return value.text
    return str(value) if isinstance(value, Path) else value


def merge_tables(base: Mapping[str, Any], over: Mapping[str, Any]) -> Table:
    """Return `base` updated by `over`: tables merge, other values replace, and a different `is` replaces the table."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, str):
            below = {PART_KEY: below}
        if isinstance(value, str) and isinstance(below, Mapping) and PART_KEY in below:
            value = {PART_KEY: value}
        if (
            isinstance(value, Mapping)
            and isinstance(below, Mapping)
            and value.get(PART_KEY, below.get(PART_KEY)) == below.get(PART_KEY)
        ):
            merged[key] = merge_tables(below, value)
        else:
            merged[key] = value
    return merged


def parse_overrides(arguments: Iterable[str]) -> Table:
    """Return `["model.depth=4", "objective.corruption.rate=0.3"]` as a table.

    A value that is not valid TOML is taken as a string. Raises `SettingsError` for what is not path=value.
    """
    table: Table = {}
    for argument in arguments:
        path, equals, text = argument.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(re.fullmatch(r"[A-Za-z_][\w-]*", key) for key in keys):
            raise SettingsError(f"'{argument}' is not a setting. Write path=value, such as model.depth=4.")
        branch = table
        for key in keys[:-1]:
            below = branch.setdefault(key, {})
            if not isinstance(below, dict):
                below = branch[key] = {PART_KEY: below}
            branch = below
        last, value = keys[-1], _literal(text.strip())
        if isinstance(branch.get(last), dict) and not isinstance(value, dict):
            branch[last][PART_KEY] = value
        else:
            branch[last] = value
    return table


def decode_with_overrides(
    cls: type[T], table: Mapping[str, Any], over: Mapping[str, Any], where: str = "settings"
) -> T:
    """Decode a table, fill in the defaults, and apply `over` to the result.

    Since defaults are filled in first, a field of a default part can be set without naming the part.
    """
    full = encode(decode(cls, table, where))
    return decode(cls, merge_tables(full, over), where)


def check_at_least(settings: object, minimum: float, *names: str) -> None:
    """Check that fields of a settings object are at least `minimum`; None is allowed.

    For `__post_init__`: `check_at_least(self, 1, "size", "heads")`.
    Raises `SettingsError` naming the first field that is smaller, and its value.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and not value >= minimum:
            raise SettingsError(f"{name} = {value}: must be at least {minimum}.")


def check_interval(settings: object, interval: str, *names: str) -> None:
    """Check that fields of a settings object lie in an interval of `x`; None is allowed.

    For `__post_init__`: `check_interval(self, "0 <= x < 1", "dropout")`; one side may be open, as in "0 < x".
    Raises `SettingsError` naming the first field that does not, and its value.
    """
    match = INTERVAL.fullmatch(interval)
    if match is None:
        raise ValueError(f"'{interval}' is not an interval such as '0 <= x < 1'.")
    low, low_sign, high_sign, high = match.groups()
    for name in names:
        value = getattr(settings, name)
        if value is None:
            continue
        above = low is None or value > float(low) or (low_sign == "<=" and value == float(low))
        below = high is None or value < float(high) or (high_sign == "<=" and value == float(high))
        if not (above and below):
            raise SettingsError(f"{name} = {value}: must lie in {interval.replace('x', name)}.")


def _literal(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _value(kind: Any, value: Any, where: str) -> Any:
    if kind is Any:
        return value
    if kind is Schedule:
        try:
            return Schedule.parse(value)
        except SettingsError as error:
            raise SettingsError(f"{where}: {error}") from error
    if inspect.isclass(kind) and issubclass(kind, Part):
        return _part(kind, value, where)
    if inspect.isclass(kind) and dataclasses.is_dataclass(kind):
        return value if isinstance(value, kind) else _fields(kind, value, where)
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return _union(kind, value, where)
    if origin in (list, tuple, dict) and _holds_structure(kind):
        return _container(origin, typing.get_args(kind), value, where)
    return _leaf(kind, value, where)


def _part(kind: type[Part], value: Any, where: str) -> Any:
    if isinstance(value, kind):
        return value
    table = {PART_KEY: value} if isinstance(value, str) else value
    if not isinstance(table, Mapping):
        raise SettingsError(f"{where}: expected the name of a part, or a table with '{PART_KEY}', not {value!r}.")
    fields = {key: item for key, item in table.items() if key != PART_KEY}
    if not is_contract(kind):
        named = table.get(PART_KEY, name_of(kind))
        if named != name_of(kind):
            raise SettingsError(f"{where}: must be '{name_of(kind)}', not '{named}'.")
        return _fields(kind, fields, where)
    if not isinstance(table.get(PART_KEY), str):
        raise SettingsError(
            f"{where}: '{PART_KEY}' is missing. It names a part: {', '.join(part_names(kind)) or 'there are none'}."
        )
    try:
        part = find_part(kind, table[PART_KEY])
    except UnknownName as error:
        raise UnknownName(f"{where}: {error}") from error
    return _fields(part, fields, where)


def _fields(cls: type, table: Any, where: str) -> Any:
    if not isinstance(table, Mapping):
        raise SettingsError(f"{where}: expected a table of settings, not {table!r}.")
    hints = type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for key in table:
        if key not in fields:
            owner = name_of(cls) if issubclass(cls, Part) else where
            raise SettingsError(
                f"{where}: '{owner}' has no setting '{key}'.{nearest(str(key), fields)} "
                f"Settings: {', '.join(fields) or 'none'}."
            )
    decoded = {key: _value(hints[key], value, f"{where}.{key}") for key, value in table.items()}
    missing = [
        name
        for name, f in fields.items()
        if name not in decoded and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise SettingsError(f"{where}: '{missing[0]}' must be given.")
    try:
        return cls(**decoded)
    except EncoderyError as error:
        raise SettingsError(f"{where}: {error}") from error


def type_hints(cls: type) -> dict[str, Any]:
    """Return the resolved types of the fields of a dataclass."""
    return _type_hints(cls)


@functools.cache
def _type_hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _union(kind: Any, value: Any, where: str) -> Any:
    options = typing.get_args(kind)
    if value is None and type(None) in options:
        return None
    structured = [option for option in options if option is not type(None)]
    if len(structured) == 1:
        # A name that is merged over the settings of a part is the name in their table.
        named = value.get(PART_KEY) if isinstance(value, Mapping) else value
        if named == "none" and type(None) in options and not _means_itself(structured[0]):
            return None
        return _value(structured[0], value, where)
    if any(_holds_structure(option) for option in structured):
        for option in structured:
            try:
                return _value(option, value, where)
            except (SettingsError, UnknownName):
                continue
    return _leaf(kind, value, where)


def _means_itself(kind: Any) -> bool:
    """Whether the text "none" is a value of that type: a text, or the name of a part of that family."""
    return kind is str or (inspect.isclass(kind) and issubclass(kind, Part) and "none" in part_names(kind))


def _holds_structure(kind: Any) -> bool:
    if inspect.isclass(kind) and (issubclass(kind, Part) or dataclasses.is_dataclass(kind)):
        return True
    return any(_holds_structure(inner) for inner in typing.get_args(kind))


def _container(origin: Any, inner: tuple[Any, ...], value: Any, where: str) -> Any:
    if origin is dict:
        if not isinstance(value, Mapping):
            raise SettingsError(f"{where}: expected a table, not {value!r}.")
        return {key: _value(inner[1], item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise SettingsError(f"{where}: expected a list, not {value!r}.")
    items = [_value(inner[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    return tuple(items) if origin is tuple else items


@functools.cache
def _adapter(kind: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(kind)


def _leaf(kind: Any, value: Any, where: str) -> Any:
    try:
        return _adapter(kind).validate_python(value)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        hint = ""
        if typing.get_origin(kind) is typing.Literal and isinstance(value, str):
            hint = nearest(value, [str(choice) for choice in typing.get_args(kind)])
        raise SettingsError(f"{where} = {value!r}: {first['msg']}.{hint}") from error


def describe_settings(cls: type[Part]) -> list[tuple[str, str, str]]:
    """Return (name, type, default) of each setting of a part, as strings. Raises `ContractError` for other classes."""
    contract_of(cls)
    rows = []
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.default is not dataclasses.MISSING:
            default = str(encode(field.default))
        elif field.default_factory is not dataclasses.MISSING:
            default = str(encode(field.default_factory()))
        else:
            default = "required"
        rows.append((field.name, str(field.type), default))
    return rows
