"""What the page answers to an address: a page, its style, JSON, or an error, each with its status.

Searches run one after another in a thread reserved for them, because an index and a model are not made for concurrent
use and torch keeps a thread pool for every thread that calls it. A limited number of searches may wait."""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from encodery.base.errors import EncoderyError, InputError, UserError
from encodery.search.page.document import document_page, passages
from encodery.search.page.form import NAMES, Form, first_value, parse_form, parse_query, whole_number
from encodery.search.page.view import IndexFacts, problem_page, search_page
from encodery.search.results import SearchResult
from encodery.search.searcher import RERANK_WEIGHT, Reranking, Searcher

T = TypeVar("T")
WAITING = 32
HTML, JSON = "text/html; charset=utf-8", "application/json"
FILES = {"/page.css": "text/css; charset=utf-8", "/page.js": "text/javascript; charset=utf-8"}
PATHS = ("/", "/search", "/document", *FILES)


@dataclass(frozen=True)
class Reply:
    """A response; `kind` is its content type."""

    status: int
    body: bytes
    kind: str = HTML


class Busy(EncoderyError):
    """Too many searches are waiting."""


class PageResponder:
    """Answers addresses from an open index. Use it as a context, or close it.

    Args:
        reranking: a reranker, if the page has one.
        reranker_name: as the page shows it.
    """

    def __init__(
        self,
        searcher: Searcher,
        reranking: Reranking | None = None,
        reranker_name: str = "yes",
    ) -> None:
        self.searcher, self.reranking = searcher, reranking
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="search")
        self._room = threading.BoundedSemaphore(WAITING)
        self.facts = self._in_turn(lambda: self._facts(reranker_name))

    def __enter__(self) -> PageResponder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the current search end and accept no more; the index stays open."""
        self._worker.shutdown(cancel_futures=True)

    def warm_up(self) -> None:
        """Load the models, so that the first search is as fast as those after it. Raises as the searcher does."""
        self._in_turn(self.searcher.warm_up)

    def reply(self, target: str) -> Reply:
        """Return the reply to a request's path and query string. Never raises."""
        parts = urlsplit(target if target.startswith("/") and not target.startswith("//") else "/?")
        plain = parts.path == "/search"
        try:
            return self._routed(parts.path, parts.query)
        except InputError as error:
            return problem_reply(400, str(error), plain)
        except Busy as error:
            return problem_reply(503, str(error), plain)
        except UserError as error:  # The model or an extra is missing: the fault is the page's, not the query's.
            return problem_reply(500, str(error), plain)
        except Exception:
            traceback.print_exc()
            return problem_reply(500, "The search failed; see the terminal in which the page was started.", plain)

    def _routed(self, path: str, query: str) -> Reply:
        if path in FILES:
            text = importlib.resources.files(__package__).joinpath(path[1:]).read_bytes()
            return Reply(200, text, FILES[path])
        if path == "/":
            return self._page(query)
        if path == "/search":
            return self._json(query)
        if path == "/document":
            return self._document(query)
        return problem_reply(404, f"There is nothing at '{unquote(path)[:100]}'. Paths: {', '.join(PATHS)}.")

    def _page(self, query: str) -> Reply:
        """The form, with the results or an error above it, so that the input can be corrected in place."""
        fields: Form = {}
        try:
            fields = parse_form(query)
            answer = self._search(fields) if "q" in fields else None
        except InputError as error:
            return Reply(400, search_page(self.facts, fields, None, str(error)).encode())
        return Reply(200, search_page(self.facts, fields, answer).encode())

    def _json(self, query: str) -> Reply:
        result = self._search(parse_form(query))
        return Reply(200, json.dumps(dataclasses.asdict(result), ensure_ascii=False, default=str).encode(), JSON)

    def _document(self, query: str) -> Reply:
        fields = parse_form(query, (*NAMES, "id", "passage"))
        name, number = first_value(fields, "id"), whole_number(fields, "passage", minimum=0) or 0
        if not name:
            raise InputError("id: is missing; it names a document.")

        def made() -> Reply:
            points = passages(self.searcher.index.store, name, number)
            if not points:
                return problem_reply(404, f"The index holds no passage {number} of a document '{name[:200]}'.")
            return Reply(200, document_page(self.facts, fields, number, points, self.searcher.index.store).encode())

        return self._in_turn(made)

    def _search(self, fields: Form) -> SearchResult:
        query = parse_query(fields)
        reranking = self.reranking if query.rerank else None
        if reranking is not None and query.rerank_weight is not None:
            reranking = dataclasses.replace(reranking, weight=query.rerank_weight)
        return self._in_turn(lambda: self.searcher.search(**query.arguments(), reranking=reranking))

    def _in_turn(self, work: Callable[[], T]) -> T:
        """The result of `work`, run after those before it. Raises `Busy`, and what `work` raises."""
        if not self._room.acquire(blocking=False):
            raise Busy(f"{WAITING} searches are waiting; ask again in a moment.")
        try:
            return self._worker.submit(work).result()
        finally:
            self._room.release()

    def _facts(self, reranker: str) -> IndexFacts:
        index = self.searcher.index
        return IndexFacts(
            name=index.path.resolve().name,
            documents=index.store.documents(),
            passages=index.store.count(),
            modes=index.modes,
            weights=index.weights,
            reranker=None if self.reranking is None else reranker,
            rerank_weight=RERANK_WEIGHT if self.reranking is None else self.reranking.weight,
        )


def problem_reply(status: int, message: str, plain: bool = False) -> Reply:
    """Return an error as a page or, if `plain`, as JSON."""
    if plain:
        table: dict[str, Any] = {"error": {"message": message, "status": status}}
        return Reply(status, json.dumps(table, ensure_ascii=False).encode(), JSON)
    titles = {400: "This cannot be asked", 403: "Not here", 404: "Not points", 503: "Too much at once"}
    return Reply(status, problem_page(titles.get(status, "This went wrong"), message).encode())
