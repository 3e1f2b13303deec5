"""Keeps what was computed for the passages requested last, so that each passage is encoded once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

Made = TypeVar("Made")


class PassageCache(Generic[Made]):
    """The results of `make` for texts. `make` gets distinct texts and returns text -> result; the results of up to
    `capacity` texts are kept."""

    def __init__(self, make: Callable[[Sequence[str]], Mapping[str, Made]], capacity: int) -> None:
        self.make, self.capacity = make, capacity
        self._held: OrderedDict[str, Made] = OrderedDict()

    def of(self, texts: Sequence[str]) -> dict[str, Made]:
        """Return text -> result; the results of all new texts are computed together."""
        new = [text for text in dict.fromkeys(texts) if text not in self._held]
        if new:
            self._held |= self.make(new)
        results = {text: self._held[text] for text in texts}
        for text in results:
            self._held.move_to_end(text)
        while len(self._held) > self.capacity:
            self._held.popitem(last=False)
        return results
