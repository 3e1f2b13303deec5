"""Every card is read strictly and resolves; `show` and `methods` say what lies in the folders."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from encodery.base.cards import card, cards, cards_using, read_card
from encodery.base.errors import SettingsError, UnknownName
from encodery.base.parts import families, parts_of
from encodery.base.recipes import recipe_files
from encodery.base.settings import parse_overrides
from encodery.cli.__main__ import run

GOOD = 'title = "T"\narxiv = "2401.00001"\nyear = 2024\nclaim = "c"\n'


@pytest.mark.parametrize("name", list(cards()))
def test_parts_and_recipe_of_a_card_exist(name: str, repository: Path) -> None:
    entries = card(name)
    assert entries.parts or entries.modules
    for module in entries.modules:
        assert find_spec(f"encodery.{module}"), f"{module} is no module"
    for path in entries.parts:
        family = max((f for f in families() if path.startswith(f"{f}.")), key=len, default="")
        assert path.removeprefix(f"{family}.") in parts_of(family), f"{path} is no part"
    if entries.recipe:
        verb, recipe = entries.recipe.split("/")
        assert recipe in recipe_files(verb)
    parse_overrides(entries.settings)
    assert entries.status == "sketch" or entries.recipe or entries.settings or entries.modules
    assert not entries.result_file or (repository / entries.result_file).is_file()


def test_a_card_is_strict(tmp_path: Path) -> None:
    path = tmp_path / "paper.toml"
    path.write_text(GOOD + 'recipee = "pretrain/bert"\n')
    with pytest.raises(SettingsError, match=r"'recipee'\. Did you mean 'recipe'"):
        read_card(path)
    path.write_text(GOOD + 'status = "done"\n')
    with pytest.raises(SettingsError, match="status"):
        read_card(path)
    path.write_text(GOOD + 'status = "reproduced"\n')
    with pytest.raises(SettingsError, match="needs a measured result"):
        read_card(path)
    path.write_text(GOOD)
    assert read_card(path).status == "sketch"
    path.write_text(GOOD + 'doi = "https://doi.org/10.1/x"\n')
    with pytest.raises(SettingsError, match=r"must begin with '10\.'"):
        read_card(path)
    with pytest.raises(UnknownName, match="Did you mean 'modernbert'"):
        card("modernber")


def test_papers_without_arxiv_are_found_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "paper.toml"
    path.write_text(GOOD)
    assert read_card(path).address == "https://arxiv.org/abs/2401.00001"
    bare = GOOD.replace('arxiv = "2401.00001"\n', "")
    path.write_text(bare + 'doi = "10.1145/1571941.1572114"\n')
    assert read_card(path).address == "https://doi.org/10.1145/1571941.1572114"
    path.write_text(bare)
    assert read_card(path).address == ""
    assert run(["papers", "--family", "losses"]) == 0
    output = capsys.readouterr().out
    assert "doi:10.1109/TASLP.2024.3402087" in output
    assert "arXiv:)" not in output


def test_cards_of_a_part() -> None:
    assert "mosaicbert" in cards_using("model.positions", "alibi")
    assert "bert" not in cards_using("model.positions", "alibi")
    assert {"bert", "mosaicbert"} <= set(cards_using("model.positions"))


def test_methods_by_status_and_family(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["papers", "--json", "--family", "positions"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert entries["mosaicbert"]["arxiv"] == "2312.17482"
    assert "should_you_mask_15" not in entries
    assert run(["papers", "--status", "run"]) == 2
    assert "Did you mean 'runs'" in capsys.readouterr().err


def test_show_walks_from_families_to_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", "--json"]) == 0
    entries = {row["family"]: row for row in json.loads(capsys.readouterr().out)["families"]}
    assert entries["model.positions"]["parts"] == list(parts_of("model.positions"))
    assert run(["show", "positions"]) == 0
    assert "rotary" in capsys.readouterr().out
    assert run(["show", "positions", "rotary", "--json"]) == 0
    part = json.loads(capsys.readouterr().out)
    assert part["header"].startswith("Rotary positions")
    assert "theta" in {row["name"] for row in part["settings"]}
    assert "modernbert" in part["papers"]
    assert run(["show", "positions", "rotery"]) == 2
    assert "Did you mean 'rotary'" in capsys.readouterr().err
    assert run(["show", "psitions"]) == 2
    assert "Did you mean 'model.positions'" in capsys.readouterr().err


def test_the_pages_of_parts_and_papers_escape_their_tables() -> None:
    from encodery.cli.papers import papers_page
    from encodery.cli.show import parts_page

    assert "| `rotary` |" in parts_page()
    assert papers_page().count("\n| ") == len(cards()) + 1
