"""An existing tokenizer: a folder with `tokenizer.json`, such as that of a model from the hub; nothing is trained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from encodery.base.errors import ArtifactError
from encodery.tokens.kind import TokenizerKind


@dataclass(frozen=True, kw_only=True)
class Hub(TokenizerKind):
    """Use it to train a model with the tokenizer of another one. `folder`: where `tokenizer.json` is; `vocab_size` is
    ignored.

        encodery tokens train corpus --out tokenizer kind.is=hub kind.folder=bert-base-uncased
    """

    folder: str

    @property
    def needs_texts(self) -> bool:
        """False: the tokenizer exists already."""
        return False

    def train(self, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """Return the tokenizer as it is. Raises `ArtifactError` that names the folder if there is none."""
        path = Path(self.folder) / "tokenizer.json"
        if not path.is_file():
            raise ArtifactError(f"{self.folder}: has no tokenizer.json.")
        return Tokenizer.from_file(str(path))
