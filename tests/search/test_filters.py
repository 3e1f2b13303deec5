"""Filters as users write them."""

from __future__ import annotations

import pytest

from encodery.base.errors import InputError
from encodery.search.filters import Condition, alternatives, parse


def test_the_grammar() -> None:
    assert parse(["a=b", "x.y != 1, 2", "n>=3", "t ~ part of it", "u=a=b"]) == (
        Condition("a", "=", ("b",)),
        Condition("x.y", "!=", ("1", "2")),
        Condition("n", ">=", (3,)),
        Condition("t", "~", ("part of it",)),
        Condition("u", "=", ("a=b",)),
    )


@pytest.mark.parametrize("text", ["", "nothing", "=x", "a=", "n>=abc", "n<nan", "n<inf", "a=,"])
def test_an_invalid_filter_is_refused_with_the_grammar(text: str) -> None:
    with pytest.raises(InputError, match=r"field|number|value"):
        parse([text])


def test_a_number_also_matches_as_text() -> None:
    assert alternatives("2000") == ("2000", 2000)
    assert alternatives("1.5") == ("1.5", 1.5)
    assert alternatives("abc") == ("abc",)
