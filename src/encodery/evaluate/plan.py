"""Read what is to be compared from the command line or from a TOML file.

A system is written as `PATH`, `KIND:PATH`, `KIND` or the URL of a server, followed by fields as `,field=value`:
`runs/first`, `sentence_transformers:folder`, `bm25,k1=0.9`, `http://localhost:8080/v1/embeddings,model=mini`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from encodery.base.errors import InputError, SettingsError
from encodery.base.parts import find_part, part_names
from encodery.base.settings import PART_KEY, decode, describe_settings, parse_overrides
from encodery.evaluate.compare import SuiteTask
from encodery.evaluate.suites import Suite
from encodery.evaluate.systems import System

DEFAULT, SERVER = "model", "endpoint"
LOCATIONS = ("path", "url")  # The fields that are written before the first comma.


@dataclass(frozen=True, kw_only=True)
class ComparisonPlan:
    """The systems, the first of which the others are compared with, and the tasks."""

    systems: tuple[System, ...]
    tasks: tuple[SuiteTask, ...]


def read_plan(path: Path) -> ComparisonPlan:
    """Read a plan from a TOML file; its paths are relative to the working directory.

    Raises `InputError` and `SettingsError`.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; a plan is a TOML file with [[systems]] and [[tasks]].")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: is not valid TOML: {error}") from error
    return decode(ComparisonPlan, table, str(path))


def parse_system(text: str) -> System:
    """Return the system that a text describes. Raises `SettingsError` and `UnknownName`."""
    head, *rest = text.split(",")
    fields = parse_overrides(rest)
    kind, location = _kind(head)
    part = find_part(System, kind)
    field = next(
        (name for name, _, default in describe_settings(part) if name in LOCATIONS and default == "required"), None
    )
    if location and field is None:
        raise SettingsError(f"'{text}': '{kind}' takes nothing after a colon.")
    if field is not None:
        if not location:
            raise SettingsError(f"'{text}': write {kind}:{field.upper()}.")
        fields[field] = location
    return decode(System, {PART_KEY: kind, **fields}, f"'{text}'")


def parse_task(suite: str, data: Path, settings: Sequence[str] = ()) -> SuiteTask:
    """Return a suite with settings as `path=value`. Raises `SettingsError` and `UnknownName`."""
    return SuiteTask(suite=decode(Suite, {PART_KEY: suite, **parse_overrides(settings)}, suite), data=data)


def _kind(head: str) -> tuple[str, str]:
    if head.startswith(("http://", "https://")):
        return SERVER, head
    known = part_names(System)
    first, colon, rest = head.partition(":")
    if colon and first.replace("-", "_") in known:
        return first.replace("-", "_"), rest
    return (head.replace("-", "_"), "") if head.replace("-", "_") in known else (DEFAULT, head)
