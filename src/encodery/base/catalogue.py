"""The catalogue: the papers that encodery is to implement, and how many of them run and are measured, by their cards.

`papers/catalogue.tsv` has one paper per line, with its number, title, short name, family and core level: 3 (every user
expects it), 2 (wanted), 1 (of interest) or 0 (background).
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from encodery.base.cards import MEASURED, Card, cards_folder
from encodery.base.errors import InputError

COUNTED_LEVELS = (3, 2)


@dataclass(frozen=True)
class CatalogueEntry:
    """A paper of the catalogue."""

    number: int
    title: str
    name: str
    family: str
    core: int


@dataclass(frozen=True)
class Coverage:
    """How many papers of a family and core level there are, have a card that runs, and have a measured figure."""

    family: str
    core: int
    papers: int
    run: int
    measured: int


def catalogue() -> dict[int, CatalogueEntry]:
    """Return the papers of the catalogue by their numbers."""
    with open(cards_folder() / "catalogue.tsv", encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    entries = (
        CatalogueEntry(int(line["id"]), line["title"], line["name"], line["family"], int(line["core"]))
        for line in lines
    )
    return {entry.number: entry for entry in entries}


def check_catalogue_number(card: Card, entries: Mapping[int, CatalogueEntry]) -> None:
    """Raise `InputError` if the card's number is not that of its paper, or is missing for a paper of the catalogue."""
    by_title = {_plain(entry.title): entry.number for entry in entries.values()}
    expected = by_title.get(_plain(card.title))
    if card.catalogue != expected:
        there = f"that of its title is {expected}" if expected else "no paper of the catalogue has its title"
        raise InputError(f"'{card.title}': catalogue = {card.catalogue}, but {there}.")


def coverage(cards: Iterable[Card], entries: Mapping[int, CatalogueEntry]) -> list[Coverage]:
    """Return a line for each family and each core level of 3 and 2."""
    of_number: dict[int, list[Card]] = {}
    for card in cards:
        if card.catalogue is not None:
            of_number.setdefault(card.catalogue, []).append(card)
    lines = []
    for family in sorted({entry.family for entry in entries.values()}):
        for core in COUNTED_LEVELS:
            papers = [entry for entry in entries.values() if entry.family == family and entry.core == core]
            if not papers:
                continue
            statuses = [{card.status for card in of_number.get(entry.number, ())} - {"sketch"} for entry in papers]
            measured = sum(not known.isdisjoint(MEASURED) for known in statuses)
            lines.append(Coverage(family, core, len(papers), sum(map(bool, statuses)), measured))
    return lines


def _plain(title: str) -> str:
    """A title without case, accents and marks, so that spellings of the same title agree."""
    letters = unicodedata.normalize("NFKD", title).casefold()
    return re.sub(r"[^a-z0-9]+", " ", letters).strip()
