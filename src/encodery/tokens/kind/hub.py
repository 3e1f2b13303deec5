"""An existing tokenizer: a folder with `tokenizer.json`, such as a model's from the hub; nothing is trained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from encodery.base.errors import ArtifactError
from encodery.tokens.kind import TokenizerKind


@dataclass(frozen=True, kw_only=True)
class Hub(TokenizerKind):
    """`folder`: where `tokenizer.json` lies; `vocab` is ignored."""

    folder: str

    @property
    def needs_texts(self) -> bool:
        """False: it exists."""
        return False

    def train(self, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """The tokenizer as it is. Raises `ArtifactError` naming the folder if there is none."""
        path = Path(self.folder) / "tokenizer.json"
        if not path.is_file():
            raise ArtifactError(f"{self.folder}: has no tokenizer.json.")
        return Tokenizer.from_file(str(path))
