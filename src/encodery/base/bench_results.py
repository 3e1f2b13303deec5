"""Figures in the result files of the benchmarks, named by a path, and sentences whose figures are read from the files.

A path leads through the JSON of a file, separated by `/`: a key of a table, the number of an entry of a list, `*` for
every entry of a list, or `[key=value]` for the entries of a list in which `key` has this value. What is behind a list
of entries is the list of their values: `runs/[objective=mlm]/finetune/test_accuracy` has one value per run.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import re
import statistics
from pathlib import Path
from typing import Any

from encodery.base.errors import InputError

PLACEHOLDER = re.compile(r"\{([^{}|]+)(?:\|([^{}|]+))?\}")
DEFAULT_FORMAT = ".3f"
_SELECTION = re.compile(r"\[([^=\]]+)=([^\]]*)\]")


def results_folder() -> Path:
    """Return the folder of the result files: in an installed package, or in a checkout."""
    package = Path(str(importlib.resources.files("encodery")))
    installed = package / "bench_results"
    return installed if installed.is_dir() else package.parents[1] / "bench" / "results"


def read_results(file: str, at: str = "") -> Any:
    """Return the JSON of a result file, or the part of it to which the path `at` leads.

    Raises `InputError` if there is no such file or no such path in it.
    """
    path = results_folder() / file
    if not path.is_file():
        known = ", ".join(sorted(entry.name for entry in results_folder().glob("*.json")))
        raise InputError(f"bench/results/{file}: there is no such file. Files: {known}.")
    table = _parsed(path)
    return value_at(table, at, where=f"bench/results/{file}") if at else table


@functools.cache
def _parsed(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def value_at(table: Any, path: str, where: str = "") -> Any:
    """Return the value to which a path leads; behind `*` and `[key=value]` the list of the values of all entries.

    Raises `InputError` naming the step that leads nowhere and what there is instead.
    """
    return _value(table, path.split("/"), where or "the results", path)


def _value(table: Any, steps: list[str], where: str, path: str) -> Any:
    if not steps:
        return table
    step, rest = steps[0], steps[1:]
    if isinstance(table, list) and (step == "*" or _SELECTION.fullmatch(step)):
        entries = [entry for entry in table if step == "*" or _selected(entry, step)]
        if not entries:
            raise InputError(f"{where}: {path}: no entry of the list matches {step}.")
        return [_value(entry, rest, where, path) for entry in entries]
    if isinstance(table, list) and step.isdecimal() and int(step) < len(table):
        return _value(table[int(step)], rest, where, path)
    if isinstance(table, dict) and step in table:
        return _value(table[step], rest, where, path)
    there = ", ".join(map(str, table)) if isinstance(table, dict) else f"a {type(table).__name__}"
    raise InputError(f"{where}: {path}: '{step}' leads nowhere; there is {there}.")


def _selected(entry: Any, step: str) -> bool:
    match = _SELECTION.fullmatch(step)
    assert match
    return isinstance(entry, dict) and str(entry.get(match[1])) == match[2]


def numbers_at(table: Any, path: str, where: str = "") -> list[float]:
    """Return the numbers to which a path leads: one, or one per seed. Raises `InputError` if they are no numbers."""
    value = value_at(table, path, where)
    numbers = value if isinstance(value, list) else [value]
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise InputError(
                f"{where or 'the results'}: {path}: must be a number or a list of numbers, is {value!r:.80}."
            )
    return [float(number) for number in numbers]


def render(text: str, table: Any, where: str = "") -> str:
    """Return a sentence in which each `{path}` or `{path|format}` is replaced by what the results say there.

    One number is written with the format (`.3f` by default; integers as they are), several as `mean ± sd`, where sd is
    the standard deviation of a sample. Text stays as it is.
    """

    def replacement(match: re.Match[str]) -> str:
        value = value_at(table, match[1], where)
        if isinstance(value, str):
            return value
        form = match[2]
        numbers = numbers_at(table, match[1], where)
        if form is None:
            form = ",d" if isinstance(value, int) else DEFAULT_FORMAT
        mean = format(value if isinstance(value, int) else statistics.fmean(numbers), form)
        spread = format(statistics.stdev(numbers), form) if len(numbers) > 1 else ""
        return f"{mean} ± {spread}" if spread.strip("0.") else mean

    return PLACEHOLDER.sub(replacement, text)
