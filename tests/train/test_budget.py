"""Budgets: parsing, printing, spending."""

from __future__ import annotations

import pytest

from encodery.base.errors import SettingsError
from encodery.train.budget import Budget


@pytest.mark.parametrize(
    ("text", "kind", "amount", "printed"),
    [
        ("10m", "seconds", 600, "10m"),
        ("2h", "seconds", 7200, "2h"),
        ("90s", "seconds", 90, "1.5m"),
        ("1.5 d", "seconds", 129_600, "1.5d"),
        ("100 s", "seconds", 100, "100s"),
        ("0.5s", "seconds", 0.5, "0.5s"),
        ("3Btok", "tokens", 3_000_000_000, "3Btok"),
        ("200Mtok", "tokens", 200_000_000, "200Mtok"),
        ("2.5ktokens", "tokens", 2500, "2.5ktok"),
        ("123_457tok", "tokens", 123_457, "123457tok"),
        ("1Ttok", "tokens", 10**12, "1Ttok"),
        ("0.1Btok", "tokens", 100_000_000, "100Mtok"),
        ("500steps", "steps", 500, "500steps"),
        ("1 step", "steps", 1, "1steps"),
        ("2ksteps", "steps", 2000, "2000steps"),
    ],
)
def test_parses_and_prints(text: str, kind: str, amount: float, printed: str) -> None:
    budget = Budget.parse(text)
    assert (budget.kind, budget.amount) == (kind, amount)
    assert str(budget) == printed
    assert Budget.parse(str(budget)) == budget
    assert Budget.parse(budget) is budget


@pytest.mark.parametrize(
    "text", ["", "10", "ten minutes", "3B", "-5m", "0s", "0steps", "10x", "1h30m", "5 5m", "3e9tok", 7]
)
def test_unreadable_budgets_are_refused_with_examples(text: object) -> None:
    with pytest.raises(SettingsError, match=r"10m, 2h.*3Btok.*500steps") as caught:
        Budget.parse(text)  # type: ignore[arg-type]
    assert str(text) in str(caught.value)


def test_only_its_kind_is_spent() -> None:
    clock, tokens, steps = Budget.parse("100s"), Budget.parse("1ktok"), Budget.parse("10steps")
    spent = (25.0, 500, 9)
    assert [b.progress(*spent) for b in (clock, tokens, steps)] == [0.25, 0.5, 0.9]
    assert [b.remaining(*spent) for b in (clock, tokens, steps)] == [75.0, 500.0, 1.0]
    assert not any(b.done(*spent) for b in (clock, tokens, steps))
    over = (101.0, 1000, 11)
    assert all(b.done(*over) for b in (clock, tokens, steps))
    assert [b.progress(*over) for b in (clock, tokens, steps)] == [1.0, 1.0, 1.0]
    assert [b.remaining(*over) for b in (clock, tokens, steps)] == [0.0, 0.0, 0.0]
