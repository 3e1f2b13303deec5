"""Recipes: tables of settings in TOML files, by name or by path; a recipe may extend one other recipe."""

from __future__ import annotations

import importlib.resources
import tomllib
from pathlib import Path

from encodery.base.errors import SettingsError, UnknownName, nearest
from encodery.base.settings import Table, merge_tables


def load_recipe(verb: str, name: str | Path) -> Table:
    """Return the table of a recipe, merged with the recipe that it `extends`.

    Args:
        name: a path to a TOML file, or a name in `recipes/<verb>/`.

    Raises `UnknownName` with the nearest recipe, and `SettingsError` if the file is not valid TOML.
    """
    path = Path(name)
    if path.suffix != ".toml":
        known = recipe_files(verb)
        if str(name) not in known:
            raise UnknownName(
                f"There is no {verb} recipe '{name}'.{nearest(str(name), known)} Recipes: {', '.join(known)}."
            )
        path = known[str(name)]
    if not path.is_file():
        raise UnknownName(f"There is no recipe file '{path}'.")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: is not valid TOML: {error}") from error
    parent = table.pop("extends", None)
    if parent is None:
        return table
    sibling = path.parent / parent
    is_file = sibling.suffix == ".toml" and sibling.is_file()
    return merge_tables(load_recipe(verb, sibling if is_file else parent), table)


def recipe_files(verb: str) -> dict[str, Path]:
    """Return the file of each recipe of a verb that is part of the package, by name."""
    folder = Path(str(importlib.resources.files("encodery"))) / "recipes" / verb
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}
