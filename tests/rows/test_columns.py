"""Roles of columns: set by the user, assigned by name, or assigned by content."""

from __future__ import annotations

import pytest

from encodery.base.errors import InputError
from encodery.rows.columns import assign_roles, numbered_columns
from encodery.rows.table import Table

TABLE = Table.of({"ID": [1, 2], "Sentence1": ["a", "b"], "sentence2": ["c", "d"], "Label": ["x", "y"]})


def test_names_match_in_any_case() -> None:
    roles = assign_roles(TABLE, ["text_a", "text_b", "label"])
    assert roles.columns == {"text_a": "Sentence1", "text_b": "sentence2", "label": "Label"}
    assert str(roles).startswith("text_a = Sentence1 (by name), ")


def test_columns_that_were_set_come_first_and_none_is_used_twice() -> None:
    roles = assign_roles(TABLE, ["text_a", "text_b"], {"text_b": "Sentence1", "text_a": "sentence2"})
    assert roles.columns == {"text_a": "sentence2", "text_b": "Sentence1"}
    assert roles.reasons["text_a"] == "set"


def test_the_only_column_with_matching_content() -> None:
    table = Table.of({"n": [1, 2], "utter": ["a", "b"], "v": ["1.5", "x"], "parts": [["a"], ["b"]]})
    assert assign_roles(table.without("v"), ["text", "score", "tokens"]).columns == {
        "text": "utter",
        "score": "n",
        "tokens": "parts",
    }
    with pytest.raises(InputError, match=r"no column matches text; the columns are .*columns\.text=COLUMN"):
        assign_roles(table, ["text"])


def test_optional_roles_may_have_no_column() -> None:
    assert assign_roles(TABLE, ["label"], optional=["text_b", "score"]).columns == {
        "label": "Label",
        "text_b": "sentence2",
    }


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"text_a": "Sentense1"}, "Did you mean 'Sentence1'"),
        ({"lable": "Label"}, "Did you mean 'label'"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(columns: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        assign_roles(TABLE, ["text_a", "label"], columns)


def test_a_role_can_be_set_to_have_no_column() -> None:
    assert assign_roles(TABLE, ["text_a"], {"label": "none"}, ["label", "text_b"]).columns == {
        "text_a": "Sentence1",
        "text_b": "sentence2",
    }
    with pytest.raises(InputError, match="no column matches label"):
        assign_roles(TABLE, ["label"], {"label": "none"})


def test_columns_of_a_role_may_be_numbered() -> None:
    table = Table.of({name: ["a"] for name in ("negative", "negative_1", "Neg2", "negatively", "score_1")})
    assert numbered_columns(table, "negative") == ["negative_1", "Neg2"]
