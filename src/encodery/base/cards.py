"""Paper cards: `papers/<name>.toml`, one file per paper, naming the parts that implement it and a command that runs it.

The status of a card is `sketch` (the parts exist), `runs` (the command runs the mechanism, which a test watches),
`measured` (our figure beside the default at equal budget, at least two seeds) or `reproduced` (the claim of the paper
holds in our figure).
"""

from __future__ import annotations

import importlib.resources
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from encodery.base.bench_results import PLACEHOLDER, numbers_at, read_results, render
from encodery.base.errors import InputError, SettingsError, UnknownName, nearest
from encodery.base.settings import decode

Status = Literal["sketch", "runs", "measured", "reproduced"]
STATUSES: tuple[Status, ...] = ("sketch", "runs", "measured", "reproduced")
MEASURED = ("measured", "reproduced")
MIN_SEEDS = 2


@dataclass(frozen=True, kw_only=True)
class CardResult:
    """A measurement with encodery, read from a result file of `bench/`.

    Attributes:
        file: the file in `bench/results`.
        at: the path in the file from which the other paths start; empty: its top (`encodery.base.bench_results`).
        ours: the path of the figures with the method of the paper, one per seed.
        default: the path of the figures with the default at equal budget, one per seed.
        text: a sentence with `{path}` or `{path|format}` in place of each figure.
    """

    file: str
    at: str = ""
    ours: str = ""
    default: str = ""
    text: str

    def __post_init__(self) -> None:
        typed = re.search(r"\d+\.\d+", PLACEHOLDER.sub("", self.text))
        if typed:
            raise SettingsError(f"text: {typed[0]} is typed; name the figure by its path in {self.file}, as {{path}}.")
        if not PLACEHOLDER.search(self.text):
            raise SettingsError("text: names no figure of the file; write its path in braces, as {path}.")

    def rendered(self) -> str:
        """Return the sentence with the figures of the file. Raises `InputError` for a path that leads nowhere."""
        return render(self.text, read_results(self.file, self.at), f"bench/results/{self.file}")

    def seeds(self) -> tuple[int, int]:
        """Return the numbers of figures of `ours` and of `default`; 0 for one that is not named."""
        table = read_results(self.file, self.at)
        counts = [len(numbers_at(table, path, self.file)) if path else 0 for path in (self.ours, self.default)]
        return counts[0], counts[1]


@dataclass(frozen=True, kw_only=True)
class Card:
    """One paper, identified by `arxiv` or, for papers that are not on arXiv, by `doi`.

    Attributes:
        catalogue: the number of the paper in `papers/catalogue.tsv`, required if it is there.
        parts: the parts that implement it, as `family.part` (`model.ffn.glu`). The command uses each of them.
        modules: the modules that implement it where it is not a part (`search.fuse`).
        command: the lines that a user types to run the mechanism.
        claim: the result that the paper reports.
        result: what was measured with encodery.
        note: what differs from the paper.
    """

    title: str
    arxiv: str = ""
    doi: str = ""
    catalogue: int | None = None
    year: int
    parts: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    command: str = ""
    claim: str
    result: CardResult | None = None
    status: Status = "sketch"
    note: str = ""

    def __post_init__(self) -> None:
        if self.status != "sketch" and not self.command:
            raise SettingsError(f"status '{self.status}' needs a command: the lines that run the mechanism.")
        if self.status in MEASURED and not (self.result and self.result.ours and self.result.default):
            raise SettingsError(f"status '{self.status}' needs a result with the paths of its figures: ours, default.")
        if self.doi and not self.doi.startswith("10."):
            raise SettingsError(f"doi = '{self.doi}': must begin with '10.'; give the identifier, not a URL.")
        for line in self.lines:
            if not line.startswith("encodery "):
                raise SettingsError(f"command: '{line}' must begin with 'encodery'.")

    @property
    def lines(self) -> list[str]:
        """The commands, one per line; lines that end with a backslash are joined with the next."""
        joined = self.command.replace("\\\n", " ")
        return [re.sub(r"\s{2,}", " ", line).strip() for line in joined.splitlines() if line.strip()]

    @property
    def ours(self) -> str:
        """What was measured with encodery, in a sentence; empty if nothing was."""
        return self.result.rendered() if self.result else ""

    @property
    def address(self) -> str:
        """The URL of the paper; empty if it has neither an arXiv identifier nor a DOI."""
        if self.arxiv:
            return f"https://arxiv.org/abs/{self.arxiv}"
        return f"https://doi.org/{self.doi}" if self.doi else ""


def check_result(card: Card) -> None:
    """Raise `InputError` if a figure of the card is not in its file, or if it is called measured with too few seeds."""
    if card.result is None:
        return
    card.result.rendered()
    seeds = card.result.seeds()
    if card.status in MEASURED and min(seeds) < MIN_SEEDS:
        raise InputError(
            f"status '{card.status}': needs {MIN_SEEDS} seeds or more of both figures; {card.result.file} has "
            f"{seeds[0]} of ours and {seeds[1]} of the default."
        )


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
