"""A server that embeds over HTTP: the request of OpenAI's `/v1/embeddings`, or of text-embeddings-inference's `/embed`.

It uses only the standard library. Servers do not report truncation, so dropped tokens are unknown. Shapes: N texts, K
dimension of a vector.
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

MAX_SHOWN = 300  # Characters of a server's answer that an error message quotes.


@dataclass(frozen=True, kw_only=True)
class EndpointSystem(System):
    """Measure a server by its HTTP interface. Use it for a model that is deployed or that only a provider runs.

    `url`: the full address; if it ends in `/embed`, requests have the form of text-embeddings-inference, otherwise that
    of OpenAI. `model`: the model's name at the server. `headers`: sent with each request, such as Authorization.
    `batch`: texts per request. `timeout`: seconds until a request fails.
    """

    url: str
    name: str = ""
    model: str = ""
    batch: int = 32
    timeout: float = 60.0
    headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("http", "https"):
            raise SettingsError(f"url = '{self.url}': must start with http:// or https://.")
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
        self._tei = urlsplit(settings.url).path.rstrip("/").endswith("/embed")

    def encode(self, texts: Sequence[str], role: Role | None = None) -> Vectors:
        size = self._settings.batch
        embeddings: list[Any] = []
        tokens: int | None = 0
        with self.counters.clock():
            for start in range(0, len(texts), size):
                batch = list(texts[start : start + size])
                embedded, used = self._request(batch)
                if len(embedded) != len(batch):
                    raise InputError(f"{self._settings.url}: returned {len(embedded)} vectors for {len(batch)} texts.")
                embeddings += embedded
                tokens = None if tokens is None or used is None else tokens + used
        self.counters.add(len(texts), tokens, None, None)
        try:
            vectors = np.array(embeddings, np.float32)
        except (ValueError, TypeError) as error:
            raise InputError(f"{self._settings.url}: the answer must be vectors of one dimension: {error}") from error
        return vectors if embeddings else np.zeros((0, 0), np.float32)

    def _request(self, texts: list[str]) -> tuple[list[Any], int | None]:
        """Return the vectors of a batch of texts, and the number of tokens that the server reports, if it does."""
        if self._tei:
            answer = self._post({"inputs": texts})
            if not isinstance(answer, list):
                raise InputError(
                    f"{self._settings.url}: the answer must be a list of vectors, not {str(answer)[:MAX_SHOWN]}"
                )
            return answer, None
        named = {"model": self._settings.model} if self._settings.model else {}
        answer = self._post({"input": texts, "encoding_format": "float", **named})
        try:
            rows = sorted(answer["data"], key=lambda row: row["index"])
            used = (answer.get("usage") or {}).get("prompt_tokens")
            return [row["embedding"] for row in rows], used
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{self._settings.url}: the answer must have the form of OpenAI's `/v1/embeddings`, not "
                f"{str(answer)[:MAX_SHOWN]}"
            ) from error

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
            message = error.read(MAX_SHOWN).decode("utf-8", "replace")
            raise InputError(f"{settings.url}: answered {error.code} {error.reason}: {message}") from error
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            raise InputError(f"{settings.url}: no answer: {getattr(error, 'reason', error)}") from error
        except ValueError as error:
            raise InputError(f"{settings.url}: the answer is not JSON: {error}") from error
