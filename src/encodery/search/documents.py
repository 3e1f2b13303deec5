"""The documents to be indexed: those of a corpus, or of files read as the corpus would read them. Each has a stable id.

The id is that of the corpus, the `id` or `_id` of a row, or the path of any other file as it was given. Indexing a
source again therefore replaces its documents instead of duplicating them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from encodery.base.artifact import MANIFEST, Artifact
from encodery.base.errors import InputError
from encodery.base.extras import require
from encodery.corpus.document import Document
from encodery.corpus.encoding import UnusableFile
from encodery.corpus.settings import CorpusSettings
from encodery.corpus.shards import read_documents as corpus_documents
from encodery.corpus.shards import shard_paths
from encodery.corpus.sources import FileListing, SourceFile, list_files
from encodery.corpus.steps.read import ReadContext

IDS = ("id", "_id")


@dataclass
class DocumentInput:
    """Sources opened for indexing. `skipped`: reason -> number of rows or files that could not be read; it is filled
    while the documents are read."""

    corpora: tuple[Artifact, ...]
    files: FileListing | None
    settings: CorpusSettings
    skipped: Counter[str] = field(default_factory=Counter)

    @classmethod
    def open(cls, sources: Sequence[str | Path], text: str = "auto", avoid: Sequence[Path] = ()) -> DocumentInput:
        """Open corpora, folders, globs and files.

        Args:
            text: the column of tables that holds the text.
            avoid: paths that are left out, such as the output.

        Raises `InputError` for a source that does not exist, `EmptyInput` if no file can be read, and `MissingExtra`.
        """
        if not sources:
            raise InputError("Nothing to index: give a corpus, a folder or files.")
        settings = CorpusSettings(text=text)
        corpora = [Artifact.open(s, "corpus") for s in sources if (Path(s) / MANIFEST).is_file()]
        others = [s for s in sources if not (Path(s) / MANIFEST).is_file()]
        suffixes = {suffix: name for name, part in settings.read.items() for suffix in part.suffixes}
        for module in ("charset_normalizer", "orjson") if others else ():
            require(module, extra="corpus")
        files = list_files(others, suffixes, avoid=avoid) if others else None
        return cls(tuple(corpora), files, settings)

    @property
    def fingerprint(self) -> str:
        """Changes when a corpus or a file changes."""
        parts = [corpus.manifest.fingerprint for corpus in self.corpora]
        parts += [self.files.fingerprint(), self.settings.text] if self.files else []
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    def documents(self) -> Iterator[Document]:
        """Yield all documents, in the same order every time. Documents without a letter or digit are counted and left
        out."""
        for document in self._all():
            if any(map(str.isalnum, document.text)):
                yield document
            else:
                self.skipped["document without words"] += 1

    def _all(self) -> Iterator[Document]:
        for corpus in self.corpora:
            for split in ("train", "heldout"):
                yield from corpus_documents(shard_paths(corpus.path, split))
        for source in self.files.files if self.files else ():
            yield from self._file(source)

    def _file(self, source: SourceFile) -> Iterator[Document]:
        def skip(reason: str, detail: str) -> None:
            self.skipped[reason] += 1

        context = ReadContext(self.settings.text, self.settings.encoding, None, Path(), Path())
        rows = self.settings.read[source.format].read(source, skip=skip, context=context)
        number = 0
        try:
            for text, metadata in rows:
                own_id = next((str(metadata[key]) for key in IDS if metadata.get(key) not in (None, "")), "")
                name = own_id or (source.name if number == 0 else f"{source.name}:{number}")
                metadata = {"source": source.origin, "path": source.name, **metadata}
                yield Document(name, text, metadata)
                number += 1
        except UnusableFile as error:
            self.skipped[f"file {error.reason}"] += 1
