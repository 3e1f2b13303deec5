"""The cards of papers: `papers/<name>.toml`, one a paper, naming the parts and the recipe that hold its idea.

A card's status is earned: `sketch` (the parts exist), `runs` (the recipe trains and is tested), `reproduced` (a
measured figure of ours stands beside the claim, with the run that gave it).
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
    """One paper, found by `arxiv`, or else by `doi`. `parts` are `family.part` (`model.ffn.glu`), `modules` those of
    rooms (`search.fuse`) that hold an idea which is no part, `recipe` is `verb/name` or empty, `settings` are the
    `path=value` that put the idea into any recipe; `claim` is theirs, `ours` what we measured in `run`, a path in
    `bench/results`; `note` says what differs here."""

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
            raise SettingsError("status 'reproduced' needs a measured figure (ours) and its run.")
        if self.result and not self.result_file:
            raise SettingsError("a figure of ours names its run.")
        if self.doi and not self.doi.startswith("10."):
            raise SettingsError(f"doi = '{self.doi}': begins with 10. and is no address.")

    @property
    def address(self) -> str:
        """Where the paper is found; empty for one that has neither number."""
        if self.arxiv:
            return f"https://arxiv.org/abs/{self.arxiv}"
        return f"https://doi.org/{self.doi}" if self.doi else ""


def cards_folder() -> Path:
    """Where the cards lie: inside an installed package, or at the root of a checkout."""
    package = Path(str(importlib.resources.files("encodery")))
    installed = package / "papers"
    return installed if installed.is_dir() else package.parents[1] / "papers"


def read_card(path: Path) -> Card:
    """One card. Raises `SettingsError` naming the file and the field."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not a TOML card: {error}") from error
    return decode(Card, table, where=f"papers/{path.name}")


def cards(folder: Path | None = None) -> dict[str, Card]:
    """Every card by name, oldest paper first."""
    found = {path.stem: read_card(path) for path in (folder or cards_folder()).glob("*.toml")}
    return dict(sorted(found.items(), key=lambda item: (item[1].year, item[1].arxiv, item[0])))


def card(name: str) -> Card:
    """The card called `name`. Raises `UnknownName` with the nearest."""
    known = cards()
    if name not in known:
        raise UnknownName(f"There is no card '{name}'.{nearest(name, known)} Known: {', '.join(known)}.")
    return known[name]


def cards_using(family: str, part: str | None = None) -> dict[str, Card]:
    """The cards that use a part of a family, or any part of it."""
    prefix = f"{family}."
    wanted = prefix + part if part else None
    return {
        name: found
        for name, found in cards().items()
        if any(used == wanted if wanted else used.startswith(prefix) for used in found.parts)
    }
