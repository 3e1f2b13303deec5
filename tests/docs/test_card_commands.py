"""The command of every card runs on small data, and uses every part that the card names."""

from __future__ import annotations

import contextlib
import functools
import json
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from workspace import SETUP, STEPS, shrunk, write_data, write_texts

from encodery.base.cards import Card, cards
from encodery.base.parts import contract_at, families, find_part
from encodery.cli.__main__ import run

# Commands of more than five seconds: a whole line from text in one more language, or several runs.
SLOW = {
    "bertu", "gottbert", "mteb", "prompt_injection", "romanian_bert", "scholarbert", "slovakbert", "spanish_evaluation",
    "tunbert",
}  # fmt: skip
COMMANDS = {name: entry for name, entry in cards().items() if entry.command}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inputs of the commands."""
    folder = tmp_path_factory.mktemp("workspace")
    write_texts(folder / "texts")
    write_data(folder)
    with contextlib.chdir(folder):
        for line in SETUP:
            assert run(shrunk(shlex.split(line))) == 0, line
    return folder


@pytest.fixture
def folder(workspace: Path, tmp_path: Path) -> Iterator[Path]:
    """An own folder for a card, with links to the inputs, as the working directory."""
    for path in workspace.iterdir():
        (tmp_path / path.name).symlink_to(path)
    with contextlib.chdir(tmp_path):
        yield tmp_path


def part_class(path: str) -> type[Any]:
    family = max((known for known in families() if path.startswith(f"{known}.")), key=len)
    return find_part(contract_at(family), path.removeprefix(f"{family}."))


def watch(card: Card, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The paths of the card's parts; each is removed when one is made."""
    unused = set(card.parts)
    for path in card.parts:
        cls = part_class(path)
        original = cls.__init__

        def made(self: Any, *args: Any, _path: str, _original: Any, **fields: Any) -> None:
            unused.discard(_path)
            _original(self, *args, **fields)

        wrapped = functools.partialmethod(made, _path=path, _original=original)
        monkeypatch.setattr(cls, "__init__", wrapped)
    return unused


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in COMMANDS]
)
def test_the_command_of_a_card_runs_its_parts(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card = COMMANDS[name]
    unused = watch(card, monkeypatch)
    for line in card.lines:
        arguments = shrunk(shlex.split(line)[1:])
        start = time.perf_counter()
        assert run(arguments) == 0, f"{line}\n{capsys.readouterr().err}"
        print(f"{time.perf_counter() - start:.1f} s: {line}")
        if arguments[0] == "pretrain":
            check_pretraining(folder / arguments[arguments.index("--out") + 1])
    assert not unused, f"the command uses no {', '.join(sorted(unused))}"


def check_pretraining(out: Path) -> None:
    """The run has trained for all of its steps, and its held-out loss is near that of its first batch or below."""
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["steps"] == STEPS
    first = json.loads((out / "log.jsonl").read_text(encoding="utf-8").splitlines()[0])["loss"]
    # Relative to the start, since objectives have losses of different scales. A trained model that is trained further
    # on so few texts becomes a little worse on others.
    assert 0 < metrics["heldout_loss"] < 1.5 * first
