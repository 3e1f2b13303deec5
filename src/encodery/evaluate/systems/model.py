"""A model that encodery loads: its own artifact or run, or a folder of Hugging Face or sentence-transformers.

Packed batches: it computes no padding. Shapes: N texts, K width of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from encodery.base.errors import InputError, nearest
from encodery.evaluate.systems import Incapable, Opened, Side, System, Vectors

if TYPE_CHECKING:
    from encodery.model.load import Loaded


@dataclass(frozen=True, kw_only=True)
class Model(System):
    """`path`: a model, a run, a folder or a name on the hub. `truncate` is for texts longer than the model takes.

    `query` and `document` name the stored prompts put before either; by default prompts of those very names, if any.
    """

    path: str
    name: str = ""
    truncate: str = "chunk"
    query: str = ""
    document: str = ""

    @property
    def label(self) -> str:
        return self.name or Path(self.path).name or self.path

    def open(self) -> Opened:
        return _Opened(self)


class _Opened(Opened):
    def __init__(self, settings: Model) -> None:
        from encodery.embed.embedder import Embedder
        from encodery.model.load import load_model

        super().__init__(settings.label)
        self._loaded = load_model(settings.path)
        self._embedder = Embedder.of(self._loaded)
        self._truncate = settings.truncate
        known = self._embedder.settings.prompts
        for name in (settings.query, settings.document):
            if name and name not in known:
                raise InputError(
                    f"{settings.path}: stores no prompt '{name}'.{nearest(name, known)} It has "
                    f"{', '.join(known) or 'none'}."
                )
        self._prompts: dict[str, str | None] = {
            "query": settings.query or ("query" if "query" in known else None),
            "document": settings.document or ("document" if "document" in known else None),
        }

    def encode(self, texts: Sequence[str], side: Side | None = None) -> Vectors:
        prompt = None if side is None else self._prompts[side]
        with self.counters.clock():
            found = self._embedder.encode(texts, self._truncate, prompt=prompt)
        self.counters.add(len(texts), int(found.tokens.sum()), 0, int(found.dropped.sum()))
        return found.vectors

    def loaded(self) -> Loaded:
        if "mlm" not in self._loaded.model.heads:
            raise Incapable(
                f"{self._loaded.path}: has no masked-language-model head, so it cannot be asked for its guesses; "
                "embedding models often lost theirs."
            )
        return self._loaded
