"""Paper cards: `papers/<name>.toml`, one file per paper, naming the parts and the recipe that implement it.

The status of a card is `sketch` (the parts exist), `runs` (the recipe trains and is tested) or `reproduced` (the card
states a result that was measured with encodery, and the file that contains it).
"""

from __future__ import annotations

import importlib.resources
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from encodery.base.errors import SettingsError, UnknownName, nearest
from encodery.base.settings import decode

Status = Literal["sketch", "runs", "reproduced"]


@dataclass(frozen=True, kw_only=True)
class Card:
    """One paper, identified by `arxiv` or, for papers that are not on arXiv, by `doi`.

    Attributes:
        catalogue: the identifier of the paper in the project's list of methods.
        parts: the parts that implement it, as `family.part` (`model.ffn.glu`).
        modules: the modules that implement it where it is not a part (`search.fuse`).
        recipe: `verb/name` of its recipe, or empty.
        settings: the `path=value` that add its method to any recipe.
        claim: the result that the paper reports.
        result: the result that was measured with encodery.
        result_file: the file in `bench/results` that contains `result`.
        note: what differs from the paper.
    """

    title: str
    arxiv: str = ""
    doi: str = ""
    catalogue: str = ""
    year: int
    parts: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    recipe: str = ""
    settings: list[str] = field(default_factory=list)
    claim: str
    result: str = ""
    result_file: str = ""
    status: Status = "sketch"
    note: str = ""

    def __post_init__(self) -> None:
        if self.status == "reproduced" and not (self.result and self.result_file):
            raise SettingsError("status 'reproduced' needs a measured result (result) and its file (result_file).")
        if self.result and not self.result_file:
            raise SettingsError("result is given without result_file: name the file that contains the measurement.")
        if self.doi and not self.doi.startswith("10."):
            raise SettingsError(f"doi = '{self.doi}': must begin with '10.'; give the identifier, not a URL.")

    @property
    def address(self) -> str:
        """The URL of the paper; empty if it has neither an arXiv identifier nor a DOI."""
        if self.arxiv:
            return f"https://arxiv.org/abs/{self.arxiv}"
        return f"https://doi.org/{self.doi}" if self.doi else ""


def cards_folder() -> Path:
    """Return the folder of the cards: in an installed package, or at the root of a checkout."""
    package = Path(str(importlib.resources.files("encodery")))
    installed = package / "papers"
    return installed if installed.is_dir() else package.parents[1] / "papers"


def read_card(path: Path) -> Card:
    """Read a card. Raises `SettingsError` naming the file and the field."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: is not valid TOML: {error}") from error
    return decode(Card, table, where=f"papers/{path.name}")


def cards(folder: Path | None = None) -> dict[str, Card]:
    """Return every card by name, oldest paper first."""
    by_name = {path.stem: read_card(path) for path in (folder or cards_folder()).glob("*.toml")}
    return dict(sorted(by_name.items(), key=lambda item: (item[1].year, item[1].arxiv, item[0])))


def card(name: str) -> Card:
    """Return the card with a name. Raises `UnknownName` with the nearest name."""
    known = cards()
    if name not in known:
        raise UnknownName(f"There is no card '{name}'.{nearest(name, known)} Known: {', '.join(known)}.")
    return known[name]


def cards_using(family: str, part: str | None = None) -> dict[str, Card]:
    """Return the cards that use a part of a family; with `part` None, those that use any part of it."""
    prefix = f"{family}."

    def is_used(name: str) -> bool:
        return name == prefix + part if part else name.startswith(prefix)

    return {name: entry for name, entry in cards().items() if any(map(is_used, entry.parts))}
