"""A server that embeds over HTTP: the request of OpenAI's `/v1/embeddings`, or of text-embeddings-inference's `/embed`.

Only the standard library is used. Which tokens a server cuts off it does not tell. Shapes: N texts, K width.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from encodery.base.errors import InputError, SettingsError
from encodery.evaluate.systems import OpenSystem, Role, System, Vectors

SHOWN = 300  # Characters of a server's complaint.


@dataclass(frozen=True, kw_only=True)
class EndpointSystem(System):
    """`url`: the whole address; one that ends in `/embed` is asked as text-embeddings-inference is, any other as
    OpenAI's. `model`: its name there. `headers`: sent along, such as Authorization. `batch`: texts a request."""

    url: str
    name: str = ""
    model: str = ""
    batch: int = 32
    timeout: float = 60.0
    headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("http", "https"):
            raise SettingsError(f"url = '{self.url}': must begin with http:// or https://.")
        if self.batch < 1:
            raise SettingsError(f"batch = {self.batch}: must be at least 1.")

    @property
    def label(self) -> str:
        return self.name or self.model or urlsplit(self.url).netloc

    def open(self) -> OpenSystem:
        return _Opened(self)


class _Opened(OpenSystem):
    def __init__(self, settings: EndpointSystem) -> None:
        super().__init__(settings.label)
        self._settings = settings
        self._plain = urlsplit(settings.url).path.rstrip("/").endswith("/embed")

    def encode(self, texts: Sequence[str], role: Role | None = None) -> Vectors:
        size = self._settings.batch
        rows: list[Any] = []
        tokens: int | None = 0
        with self.counters.clock():
            for start in range(0, len(texts), size):
                some = list(texts[start : start + size])
                found, read = self._asked(some)
                if len(found) != len(some):
                    raise InputError(f"{self._settings.url}: {len(found)} vectors came back for {len(some)} texts.")
                rows += found
                tokens = None if tokens is None or read is None else tokens + read
        self.counters.add(len(texts), tokens, None, None)
        try:
            vectors = np.array(rows, np.float32)
        except (ValueError, TypeError) as error:
            raise InputError(f"{self._settings.url}: what came back are no vectors of one width: {error}") from error
        return vectors if rows else np.zeros((0, 0), np.float32)

    def _asked(self, texts: list[str]) -> tuple[list[Any], int | None]:
        """The vectors of some texts, and how many tokens the server says it read."""
        if self._plain:
            answer = self._post({"inputs": texts})
            if not isinstance(answer, list):
                raise InputError(f"{self._settings.url}: a list of vectors was expected, not {str(answer)[:SHOWN]}")
            return answer, None
        named = {"model": self._settings.model} if self._settings.model else {}
        answer = self._post({"input": texts, "encoding_format": "float", **named})
        try:
            rows = sorted(answer["data"], key=lambda row: row["index"])
            read = (answer.get("usage") or {}).get("prompt_tokens")
            return [row["embedding"] for row in rows], read
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{self._settings.url}: is not OpenAI's answer: {str(answer)[:SHOWN]}") from error

    def _post(self, body: dict[str, Any]) -> Any:
        settings = self._settings
        request = urllib.request.Request(
            settings.url,
            json.dumps(body).encode(),
            {"Content-Type": "application/json", **settings.headers},
        )
        try:
            with urllib.request.urlopen(request, timeout=settings.timeout) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            said = error.read(SHOWN).decode("utf-8", "replace")
            raise InputError(f"{settings.url}: answered {error.code} {error.reason}: {said}") from error
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            raise InputError(f"{settings.url}: no answer: {getattr(error, 'reason', error)}") from error
        except ValueError as error:
            raise InputError(f"{settings.url}: what came back is no JSON: {error}") from error
