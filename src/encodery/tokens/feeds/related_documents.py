"""Several related documents: a piece of one document, and text of others that have the same group.

They become one sequence, [CLS] a [SEP] b [SEP] …, in which tokens attend across documents as in cross-document language
modelling (CDLM, arXiv:2101.00406), or with `joined` = false a sequence each. The groups are those of the token folder
(`encodery tokens encode --group-by`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from encodery.base.errors import EmptyInput
from encodery.base.settings import check_at_least
from encodery.tokens.feeds import DataFeed, FeedPiece, Ids
from encodery.tokens.shuffle import Integers
from encodery.tokens.store import TokenSplit


@dataclass(frozen=True, kw_only=True)
class RelatedDocuments(DataFeed):
    """Use it for an objective that looks across documents. `documents`: how many parts a piece has. The first is of the
    document itself and each other one of another document of its group, all of about the same length; if the group has
    fewer documents, more parts are of the first. `joined`: whether the parts are one sequence, in which the segment of
    the first document is 0 and that of the others 1. The label is the number of other documents.
    """

    unsupported: ClassVar[frozenset[str]] = frozenset({"text"})
    documents: int = 2
    joined: bool = True

    def __post_init__(self) -> None:
        check_at_least(self, 2, "documents")

    @property
    def num_special_tokens(self) -> int:
        return self.documents + 1 if self.joined else 2 * self.documents

    @property
    def sequences(self) -> int:
        return 1 if self.joined else self.documents

    def check_split(self, split: TokenSplit) -> None:
        """See `DataFeed`: two documents must be related. Raises `InputError` for a token folder without groups."""
        if not split.related.count:
            raise EmptyInput(f"The split '{split.name}' has no two documents that are related.")

    def compose(self, split: TokenSplit, start: int, length: int, draws: Integers) -> FeedPiece:
        """See `DataFeed`."""
        others = self._texts_of_others(split, start, length // self.documents, draws)
        own = split.read(start, length - sum(map(len, others))).astype(np.int64)
        parts = [*np.array_split(own, self.documents - len(others)), *others]
        cls_id, sep_id = [split.special_tokens.cls_id], [split.special_tokens.sep_id]
        first = [cls_id if number == 0 or not self.joined else [] for number in range(self.documents)]
        sequences = [
            np.concatenate([begin, part, sep_id]).astype(np.int64) for begin, part in zip(first, parts, strict=True)
        ]
        lengths = [len(sequence) for sequence in sequences]
        segment = (np.arange(self.documents) > self.documents - 1 - len(others)).astype(np.int64).repeat(lengths)
        ids = np.concatenate(sequences)
        if self.joined:
            return FeedPiece(ids, segment, (len(ids),), len(others))
        return FeedPiece(ids, np.zeros_like(segment), tuple(lengths), len(others))

    def _texts_of_others(self, split: TokenSplit, start: int, length: int, draws: Integers) -> list[Ids]:
        """At most `length` tokens of each of the other documents, which follow one another in the group from a random
        one on."""
        own = int(split.offsets.searchsorted(start, "right")) - 1
        group = split.related.of(int(split.groups[own]))
        group = group[group != own]
        texts = []
        for number in range(min(self.documents - 1, len(group))):
            document = int(group[(int(draws[0]) + number) % len(group)])
            begin, end = int(split.offsets[document]), int(split.offsets[document + 1])
            taken = min(length, end - begin)
            place = begin + int(draws[1]) % (end - begin - taken + 1)
            texts.append(split.read(place, taken).astype(np.int64))
        return texts
