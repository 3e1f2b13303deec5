"""What was made of the passages that were asked for last, so that each is encoded once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

Made = TypeVar("Made")


class PassageCache(Generic[Made]):
    """`make` gives of texts, each told once, what is wanted of each; of `most` texts at most it is kept."""

    def __init__(self, make: Callable[[Sequence[str]], Mapping[str, Made]], most: int) -> None:
        self.make, self.capacity = make, most
        self._held: OrderedDict[str, Made] = OrderedDict()

    def of(self, texts: Sequence[str]) -> dict[str, Made]:
        """Text -> what was made of it; new ones are made all at once."""
        new = [text for text in dict.fromkeys(texts) if text not in self._held]
        if new:
            self._held |= self.make(new)
        found = {text: self._held[text] for text in texts}
        for text in found:
            self._held.move_to_end(text)
        while len(self._held) > self.capacity:
            self._held.popitem(last=False)
        return found
