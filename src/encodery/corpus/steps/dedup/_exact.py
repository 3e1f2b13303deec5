"""What datatrove's exact deduplication is told."""

import re
from collections.abc import Iterator
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.dedup import ExactDedupConfig, ExactDedupFilter

SPACE = re.compile(r"\s+")


def text_of(document: Document) -> str:
    """The text as it is."""
    return document.text  # type: ignore[no-any-return]


def normalised(document: Document) -> str:
    """The text without differences of case and whitespace."""
    return SPACE.sub(" ", document.text).casefold().strip()


def config(normalise: bool) -> ExactDedupConfig:
    """datatrove reads the annotation of the content getter, so this module keeps annotations as types."""
    return ExactDedupConfig(content_getter=normalised if normalise else text_of)


class ExactStep(ExactDedupFilter):  # type: ignore[misc]
    """datatrove's filter, without the count it leaves in every document."""

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        for document in super().run(data, rank, world_size):
            document.metadata.pop("duplicate_count", None)
            yield document
