"""Settings: decode, encode, merge, overrides and recipes, with a family outside the package."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from encodery.base.errors import ContractError, SettingsError, UnknownName
from encodery.base.parts import Part, find_part, name_of
from encodery.base.recipes import load_recipe
from encodery.base.schedule import Schedule
from encodery.base.settings import (
    check_at_least,
    check_interval,
    decode,
    decode_with_overrides,
    encode,
    merge_tables,
    parse_overrides,
)
from encodery.model.settings import ModelSettings

CONTRACT = '''"""Shapes to try."""
import abc
from encodery.base.parts import Part
class Shape(Part):
    """A shape."""
    @abc.abstractmethod
    def area(self) -> float: ...
'''
SQUARE = '''"""A square."""
from dataclasses import dataclass
from shapes import Shape
@dataclass(frozen=True, kw_only=True)
class Square(Shape):
    side: float = 1.0
    def area(self) -> float:
        return self.side ** 2
'''
PAIR = '''"""Two shapes."""
from dataclasses import dataclass, field
from shapes import Shape
@dataclass(frozen=True, kw_only=True)
class Pair(Shape):
    parts: tuple[Shape, ...] = ()
    def area(self) -> float:
        return sum(p.area() for p in self.parts)
'''


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    folder = tmp_path / "shapes"
    folder.mkdir()
    for name, text in {"__init__": CONTRACT, "square": SQUARE, "pair": PAIR}.items():
        (folder / f"{name}.py").write_text(text)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "__init__.py").write_text("")
    (tmp_path / "outside" / "disc.py").write_text(SQUARE.replace("Square", "Disc").replace("self.side ** 2", "3.0"))
    monkeypatch.syspath_prepend(str(tmp_path))
    import shapes

    yield shapes
    for name in [name for name in sys.modules if name.split(".")[0] in ("shapes", "outside")]:
        del sys.modules[name]


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: Schedule = field(default_factory=lambda: Schedule.parse("0.15"))
    mode: Literal["sum", "mean"] = "mean"
    limit: int | None = None


@dataclass(frozen=True, kw_only=True)
class Outer:
    depth: int
    inner: Inner = field(default_factory=Inner)
    widths: tuple[int, ...] = (1, 2)
    where: Path = Path("here")


def test_round_trip_of_nested_tables() -> None:
    table = {"depth": 3, "inner": {"rate": "0.3 -> 0.15 linear", "mode": "sum", "limit": 4}, "widths": [5]}
    outer = decode(Outer, table)
    assert outer.inner.rate(1.0) == pytest.approx(0.15)
    assert outer.widths == (5,)
    assert decode(Outer, encode(outer)) == outer


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"depth": 1, "inner": {"ratee": 1}}, r"recipe.inner: .*'ratee'.*Did you mean 'rate'"),
        ({"depth": "three"}, r"recipe.depth = 'three'"),
        ({"depth": 2.5}, r"recipe.depth = 2.5"),
        ({}, r"'depth' must be given"),
        ({"depth": 1, "inner": {"mode": "summ"}}, r"Did you mean 'sum'"),
        ({"depth": 1, "inner": {"rate": "0.3 -> 0.1 linera"}}, r"recipe.inner.rate: .*'linear'"),
        ({"depth": 1, "inner": 7}, r"recipe.inner: expected a table"),
    ],
)
def test_errors_name_path_value_and_nearest(table: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        decode(Outer, table, "recipe")


def test_parts_by_name_by_table_nested_and_outside(shapes: Any) -> None:
    square = decode(shapes.Shape, {"is": "square", "side": 3})
    assert square.area() == 9
    assert name_of(square) == "square"
    pair = decode(shapes.Shape, {"is": "pair", "parts": ["square", {"is": "square", "side": 2}]})
    assert pair.area() == 5
    assert decode(shapes.Shape, encode(pair)) == pair
    assert decode(shapes.Shape, "outside.disc").area() == 3
    assert encode(pair)["parts"][1] == {"is": "square", "side": 2.0}


def test_unknown_part_suggests_and_contract_is_checked(shapes: Any, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'square'"):
        find_part(shapes.Shape, "sqare")
    (tmp_path / "shapes" / "bad.py").write_text('"""Nothing."""\n')
    from encodery.base import parts

    parts._listing.cache_clear()
    parts._names.cache_clear()
    with pytest.raises(ContractError, match="exactly one public Shape"):
        find_part(shapes.Shape, "bad")


def test_overrides_parse_toml_else_text_and_merge() -> None:
    table = parse_overrides(["depth=4", "inner.mode=sum", "inner.rate=0.3 -> 0.1 linear", "widths=[7, 8]"])
    outer = decode_with_overrides(Outer, {"depth": 1, "inner": {"limit": 9}}, table)
    assert (outer.depth, outer.inner.mode, outer.inner.limit, outer.widths) == (4, "sum", 9, (7, 8))
    with pytest.raises(SettingsError, match="path=value"):
        parse_overrides(["depth:4"])


def test_merge_replaces_a_table_whose_part_changes() -> None:
    base = {"shape": {"is": "square", "side": 3.0}}
    assert merge_tables(base, {"shape": {"side": 4}})["shape"] == {"is": "square", "side": 4}
    assert merge_tables(base, {"shape": {"is": "pair"}})["shape"] == {"is": "pair"}
    assert merge_tables(base, {"shape": "pair"})["shape"] == {"is": "pair"}
    assert merge_tables(base, parse_overrides(["shape=square", "shape.side=5"]))["shape"] == {
        "is": "square",
        "side": 5,
    }


def test_a_default_part_can_be_adjusted_without_naming_it(shapes: Any) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Holder:
        shape: Part = field(default_factory=lambda: find_part(shapes.Shape, "square")())

    Holder.__annotations__["shape"] = shapes.Shape
    held = decode_with_overrides(Holder, {}, parse_overrides(["shape.side=6"]))
    assert held.shape.area() == 36  # type: ignore[attr-defined]


@dataclass(frozen=True, kw_only=True)
class Checked:
    size: int | None = 1
    rate: float | None = 0.5

    def __post_init__(self) -> None:
        check_at_least(self, 1, "size")
        check_interval(self, "0 <= x < 1", "rate")


@pytest.mark.parametrize("table", [{"size": 1}, {"size": None}, {"rate": 0.0}, {"rate": 0.999}, {"rate": None}])
def test_values_at_the_limits_and_none_pass_the_checks(table: dict[str, Any]) -> None:
    assert encode(decode(Checked, table)) == {"size": 1, "rate": 0.5} | table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"size": 0}, r"settings: size = 0: must be at least 1\."),
        ({"rate": 1.0}, r"settings: rate = 1\.0: must lie in 0 <= rate < 1\."),
        ({"rate": -0.1}, r"rate = -0\.1: must lie in 0 <= rate < 1\."),
        ({"rate": float("nan")}, r"rate = nan: must lie in 0 <= rate < 1\."),
    ],
)
def test_the_checks_name_field_value_and_limits(table: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        decode(Checked, table)


def test_an_interval_may_be_open_on_one_side_and_must_be_valid() -> None:
    check_interval(Checked(rate=1e-9), "0 < x", "rate")
    check_interval(Checked(rate=0.5), "x <= 0.5", "rate")
    with pytest.raises(SettingsError, match=r"rate = 0\.0: must lie in 0 < rate\."):
        check_interval(Checked(rate=0.0), "0 < x", "rate")
    with pytest.raises(SettingsError, match=r"rate = 0\.6: must lie in rate <= 0\.5\."):
        check_interval(Checked(rate=0.6), "x <= 0.5", "rate")
    with pytest.raises(ValueError, match="is not an interval"):
        check_interval(Checked(), "0 < rate", "rate")


def test_recipes_extend_one_parent(tmp_path: Path) -> None:
    (tmp_path / "parent.toml").write_text('depth = 1\n[inner]\nmode = "sum"\nlimit = 3\n')
    (tmp_path / "child.toml").write_text('extends = "parent.toml"\n[inner]\nlimit = 5\n')
    assert load_recipe("any", tmp_path / "child.toml") == {"depth": 1, "inner": {"mode": "sum", "limit": 5}}
    (tmp_path / "broken.toml").write_text("depth = = 1")
    with pytest.raises(SettingsError, match="is not valid TOML"):
        load_recipe("any", tmp_path / "broken.toml")
    with pytest.raises(UnknownName, match="no recipe file"):
        load_recipe("any", tmp_path / "absent.toml")


def test_none_leaves_out_a_part_of_a_family_that_has_no_part_of_that_name() -> None:
    assert decode(ModelSettings, {"head": "none"}).head is None
    assert decode(ModelSettings, merge_tables(encode(ModelSettings()), {"head": "none"})).head is None
    assert name_of(decode(ModelSettings, {"positions": "none"}).positions) == "none"
