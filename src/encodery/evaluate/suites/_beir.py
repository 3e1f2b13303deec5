"""Retrieval data in BEIR's layout, and runs in TREC's. arXiv:2104.08663

corpus.jsonl (_id, title, text), queries.jsonl (_id, text), qrels/SPLIT.tsv (query, document, grade), also compressed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from encodery.base.artifact import atomic_write
from encodery.base.errors import EmptyInput, InputError
from encodery.evaluate.suites._rows import PACKED, rows_of


@dataclass(frozen=True, eq=False)
class Collection:
    """`documents` and `queries` by id; `grades`: query -> document -> grade, of queries that stand in `queries`.

    Judged documents that the corpus lacks stay in `grades`: no system can find them, and all pay alike.
    """

    documents: dict[str, str]
    queries: dict[str, str]
    grades: dict[str, dict[str, int]]

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def missing(self) -> int:
        """Relevant documents that the corpus lacks."""
        return sum(
            document not in self.documents
            for found in self.grades.values()
            for document, grade in found.items()
            if grade > 0
        )


def read_collection(folder: Path, split: str) -> Collection:
    """The documents, and the queries that have a relevant document.

    Raises `InputError` naming file and line: for what is missing, an id that stands twice, a judgement of no query.
    """
    documents = {
        key: f"{title} {text}".strip() for key, title, text in _texts(_file(folder, "corpus.jsonl"), "document")
    }
    queries = {key: text for key, _, text in _texts(_file(folder, "queries.jsonl"), "query")}
    path = _file(folder / "qrels", f"{split}.tsv")
    grades: dict[str, dict[str, int]] = {}
    for where, row in rows_of(path):
        cells = [str(value) for value in row.values()]
        if len(cells) != 3 or not cells[2].lstrip("-").isdigit():
            raise InputError(f"{where}: query, document and a whole number are needed, not {cells}.")
        query, document, grade = cells
        if query not in queries:
            raise InputError(f"{where}: judges the query '{query}', which is not among the queries.")
        grades.setdefault(query, {})[document] = int(grade)
    held = {query: found for query, found in grades.items() if max(found.values()) > 0}
    if not held:
        raise EmptyInput(f"{path}: no query has a relevant document.")
    return Collection(documents, {query: queries[query] for query in held}, held)


def _texts(path: Path, what: str) -> list[tuple[str, str, str]]:
    seen: set[str] = set()
    found = []
    for where, row in rows_of(path):
        key, text = row.get("_id"), row.get("text")
        if not isinstance(key, str | int) or not isinstance(text, str):
            raise InputError(f"{where}: a {what} has '_id' and 'text'; this row has {', '.join(row)}.")
        if str(key) in seen:
            raise InputError(f"{where}: the {what} '{key}' stands twice.")
        seen.add(str(key))
        found.append((str(key), str(row.get("title") or ""), text))
    if not found:
        raise EmptyInput(f"{path}: holds no {what}.")
    return found


def _file(folder: Path, name: str) -> Path:
    for ending in ("", *PACKED):
        if (folder / f"{name}{ending}").is_file():
            return folder / f"{name}{ending}"
    raise InputError(f"{folder / name}: no such file; BEIR's layout is corpus.jsonl, queries.jsonl, qrels/test.tsv.")


def write_run(path: Path, run: Mapping[str, Mapping[str, float]], system: str) -> None:
    """A TREC run file: query Q0 document rank score system, one line a document found."""
    tag = "_".join(system.split()) or "run"
    lines = []
    for query, found in run.items():
        ranked = sorted(found.items(), key=lambda pair: (pair[1], pair[0]), reverse=True)
        lines += [f"{query} Q0 {document} {rank} {score:.8g} {tag}" for rank, (document, score) in enumerate(ranked, 1)]
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, "".join(f"{line}\n" for line in lines))
