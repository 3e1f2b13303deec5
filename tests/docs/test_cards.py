"""Every card is read strictly and resolves; `show` and `methods` say what lies in the folders."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from encodery.base.bench_results import numbers_at, render, value_at
from encodery.base.cards import card, cards, cards_using, check_result, read_card
from encodery.base.catalogue import catalogue, check_catalogue_number
from encodery.base.errors import InputError, SettingsError, UnknownName
from encodery.base.parts import families, parts_of
from encodery.cli.__main__ import run

GOOD = 'title = "T"\narxiv = "2401.00001"\nyear = 2024\nclaim = "c"\n'


@pytest.mark.parametrize("name", list(cards()))
def test_what_a_card_names_exists(name: str) -> None:
    entry = card(name)
    assert entry.parts or entry.modules or "model." in entry.command
    for module in entry.modules:
        assert find_spec(f"encodery.{module}"), f"{module} is no module"
    for path in entry.parts:
        family = max((f for f in families() if path.startswith(f"{f}.")), key=len, default="")
        assert path.removeprefix(f"{family}.") in parts_of(family), f"{path} is no part"
    check_result(entry)
    check_catalogue_number(entry, catalogue())


def test_a_card_is_strict(tmp_path: Path) -> None:
    path = tmp_path / "paper.toml"
    path.write_text(GOOD + 'commandd = "encodery show"\n')
    with pytest.raises(SettingsError, match=r"'commandd'\. Did you mean 'command'"):
        read_card(path)
    path.write_text(GOOD + 'status = "done"\n')
    with pytest.raises(SettingsError, match="status"):
        read_card(path)
    path.write_text(GOOD + 'status = "runs"\n')
    with pytest.raises(SettingsError, match="needs a command"):
        read_card(path)
    path.write_text(GOOD + 'command = "python train.py"\n')
    with pytest.raises(SettingsError, match="must begin with 'encodery'"):
        read_card(path)
    path.write_text(GOOD + 'status = "measured"\ncommand = "encodery show"\n' + result("{machine/threads}"))
    with pytest.raises(SettingsError, match="ours, default"):
        read_card(path)
    path.write_text(GOOD)
    assert read_card(path).status == "sketch"
    path.write_text(GOOD + 'doi = "https://doi.org/10.1/x"\n')
    with pytest.raises(SettingsError, match=r"must begin with '10\.'"):
        read_card(path)
    with pytest.raises(UnknownName, match="Did you mean 'modernbert'"):
        card("modernber")


def result(text: str, more: str = "") -> str:
    return f'[result]\nfile = "recipes.json"\ntext = "{text}"\n{more}'


def test_no_figure_is_typed(tmp_path: Path) -> None:
    path = tmp_path / "paper.toml"
    for text, message in (("loss 4.71", "4.71 is typed"), ("no figure at all", "names no figure")):
        path.write_text(GOOD + result(text))
        with pytest.raises(SettingsError, match=message):
            read_card(path)
    path.write_text(GOOD + result("loss {runs/bret/*/heldout_loss}"))
    with pytest.raises(InputError, match="'bret' leads nowhere; there is tiny"):
        check_result(read_card(path))
    path.write_text(GOOD + result("loss {runs/bert/*/heldout_loss} after {seconds} s"))
    assert read_card(path).ours == "loss 5.652 ± 0.042 after 45 s"
    paths = 'ours = "summary/bert/heldout_loss"\ndefault = "runs/bert/*/heldout_loss"\n'
    path.write_text(GOOD + 'status = "measured"\ncommand = "encodery show"\n' + result("{seconds} s", paths))
    with pytest.raises(InputError, match=r"needs 2 seeds or more of both figures; recipes\.json has 1 of ours"):
        check_result(read_card(path))


def test_figures_are_read_by_path() -> None:
    table = {"runs": [{"kind": "a", "loss": 1.0}, {"kind": "b", "loss": 2.0}, {"kind": "a", "loss": 4.0}], "n": 1200}
    assert numbers_at(table, "runs/[kind=a]/loss") == [1.0, 4.0]
    assert numbers_at(table, "runs/1/loss") == [2.0]
    assert render("{runs/*/loss|.1f} of {n}; {runs/1/kind}", table) == "2.3 ± 1.5 of 1,200; b"
    with pytest.raises(InputError, match="no entry of the list matches"):
        value_at(table, "runs/[kind=c]/loss")
    with pytest.raises(InputError, match="must be a number"):
        numbers_at(table, "runs/*/kind")


def test_a_paper_of_the_catalogue_needs_its_number(tmp_path: Path) -> None:
    path = tmp_path / "paper.toml"
    title = 'title = "BioBERT: A pre-trained biomedical language representation model for biomedical text mining"\n'
    path.write_text(title + 'year = 2019\nclaim = "c"\n')
    with pytest.raises(InputError, match="catalogue = None, but that of its title is 485"):
        check_catalogue_number(read_card(path), catalogue())
    path.write_text(GOOD + "catalogue = 485\n")
    with pytest.raises(InputError, match="no paper of the catalogue has its title"):
        check_catalogue_number(read_card(path), catalogue())


def test_coverage_counts_papers_that_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["papers", "--coverage", "--json"]) == 0
    lines = json.loads(capsys.readouterr().out)
    assert sum(line["papers"] for line in lines) == 321
    assert sum(line["run"] for line in lines) >= 50
    assert all(line["measured"] <= line["run"] <= line["papers"] for line in lines)
    assert run(["papers", "--coverage"]) == 0
    assert "all" in capsys.readouterr().out


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
    assert papers_page().split("| paper |")[1].count("\n| ") == len(cards())
