"""Configuration of datatrove's exact deduplication."""

import re
from collections.abc import Iterator
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.dedup import ExactDedupConfig, ExactDedupFilter

SPACE = re.compile(r"\s+")


def text_of(document: Document) -> str:
    """Return the text unchanged."""
    return document.text  # type: ignore[no-any-return]


def normalised(document: Document) -> str:
    """Return the text with case folded and runs of whitespace replaced by one space."""
    return SPACE.sub(" ", document.text).casefold().strip()


def config(normalise: bool) -> ExactDedupConfig:
    """Return the configuration.

    datatrove reads the annotation of the content getter, so this module does not import `annotations` from
    `__future__`.
    """
    return ExactDedupConfig(content_getter=normalised if normalise else text_of)


class ExactStep(ExactDedupFilter):  # type: ignore[misc]
    """datatrove's filter, without the duplicate count that it adds to the metadata of every document."""

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        for document in super().run(data, rank, world_size):
            document.metadata.pop("duplicate_count", None)
            yield document
