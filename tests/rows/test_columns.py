"""Roles of columns: told, guessed by name, guessed by what they hold."""

from __future__ import annotations

import pytest

from encodery.base.errors import InputError
from encodery.rows.columns import assign_roles, numbered_columns
from encodery.rows.table import Table

TABLE = Table.of({"ID": [1, 2], "Sentence1": ["a", "b"], "sentence2": ["c", "d"], "Label": ["x", "y"]})


def test_names_are_guessed_whatever_their_case() -> None:
    roles = assign_roles(TABLE, ["text_a", "text_b", "label"])
    assert roles.columns == {"text_a": "Sentence1", "text_b": "sentence2", "label": "Label"}
    assert str(roles).startswith("text_a = Sentence1 (by name), ")


def test_told_columns_come_first_and_none_is_taken_twice() -> None:
    roles = assign_roles(TABLE, ["text_a", "text_b"], {"text_b": "Sentence1", "text_a": "sentence2"})
    assert roles.columns == {"text_a": "sentence2", "text_b": "Sentence1"}
    assert roles.reasons["text_a"] == "set"


def test_the_only_column_that_fits() -> None:
    table = Table.of({"n": [1, 2], "utter": ["a", "b"], "v": ["1.5", "x"], "parts": [["a"], ["b"]]})
    assert assign_roles(table.without("v"), ["text", "score", "tokens"]).columns == {
        "text": "utter",
        "score": "n",
        "tokens": "parts",
    }
    with pytest.raises(InputError, match=r"no column was found for text among .*columns\.text=COLUMN"):
        assign_roles(table, ["text"])


def test_optional_roles_may_lack() -> None:
    assert assign_roles(TABLE, ["label"], optional=["text_b", "score"]).columns == {
        "label": "Label",
        "text_b": "sentence2",
    }


@pytest.mark.parametrize(
    "given, said",
    [
        ({"text_a": "Sentense1"}, "Did you mean 'Sentence1'"),
        ({"lable": "Label"}, "Did you mean 'label'"),
    ],
)
def test_what_is_told_wrongly_names_the_nearest(given: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        assign_roles(TABLE, ["text_a", "label"], given)


def test_a_role_may_be_told_to_have_no_column() -> None:
    assert assign_roles(TABLE, ["text_a"], {"label": "none"}, ["label", "text_b"]).columns == {
        "text_a": "Sentence1",
        "text_b": "sentence2",
    }
    with pytest.raises(InputError, match="no column was found for label"):
        assign_roles(TABLE, ["label"], {"label": "none"})


def test_columns_of_a_role_may_be_numbered() -> None:
    table = Table.of({name: ["a"] for name in ("negative", "negative_1", "Neg2", "negatively", "score_1")})
    assert numbered_columns(table, "negative") == ["negative_1", "Neg2"]
