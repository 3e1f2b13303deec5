"""The frame of the command line: verbs by place, lazily; errors as one line; exit codes."""

from __future__ import annotations

import errno
import subprocess
import sys
import time
from pathlib import Path

import pytest

import encodery.cli
from encodery.base.errors import UserError
from encodery.cli import load_verb, verb_summary, verbs
from encodery.cli.__main__ import main, run


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder whose modules are verbs too."""
    monkeypatch.setattr(encodery.cli, "__path__", [*encodery.cli.__path__, str(tmp_path)])
    return tmp_path


def plant(folder: Path, verb: str, body: str) -> str:
    """Write a verb whose command runs `body`; the name is made unique, since modules are cached."""
    name = f"{verb}_{folder.name.replace('-', '_')}"
    lines = "\n    ".join(body.splitlines())
    (folder / f"{name}.py").write_text(
        f'"""encodery {name.replace("_", "-")}: does {verb}."""\nimport errno\nimport typer\n'
        f"from encodery.base.errors import UserError\n\n"
        f"def command(arguments: list[str] = typer.Argument(None)) -> None:\n"
        f'    """Do it."""\n    {lines}\n'
    )
    return name.replace("_", "-")


def test_a_verb_is_registered_by_its_file(planted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = plant(planted, "greet", "print('hello', arguments)")
    assert verbs()[name] == f"encodery.cli.{name.replace('-', '_')}"
    assert verb_summary(name) == "Does greet."
    assert run([name, "model.depth=4", "x=y"]) == 0
    assert capsys.readouterr().out == "hello ['model.depth=4', 'x=y']\n"


def test_help_lists_every_verb_and_imports_none_of_them(planted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (planted / "explode.py").write_text('"""encodery explode: must not be imported for help."""\n1 / 0\n')
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    assert "Must not be imported for help." in text
    assert all(f"  {verb}" in text for verb in verbs())


def test_help_is_fast_and_light() -> None:
    code = (
        "import sys; from encodery.cli.__main__ import run; run(['--help']); "
        "heavy = {'torch', 'numpy', 'pydantic', 'typer', 'datatrove'} & set(sys.modules); assert not heavy, heavy"
    )
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.6, "0.3 s on a quiet machine; twice that is allowed here"


def test_unknown_verb_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["corpsu"]) == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert "no verb 'corpsu'. Did you mean 'corpus'?" in text


def test_user_errors_are_one_line_and_bugs_are_tracebacks(planted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = plant(planted, "wrong", "raise UserError('rate = 2: must lie in [0, 1], see \\'x\\'.')")
    assert run([name]) == 2
    assert capsys.readouterr().err == "error: rate = 2: must lie in [0, 1], see 'x'.\n"
    assert run([name], debug=True) == 2
    assert "Traceback" in capsys.readouterr().err
    fault = plant(planted, "fault", "raise ZeroDivisionError('inside')")
    assert run([fault]) == 1
    text = capsys.readouterr().err
    assert "ZeroDivisionError: inside" in text
    assert "Please report it" in text


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("raise OSError(errno.ENOSPC, 'full', 'out/x.bin')", 2, "out/x.bin: no space left on the device"),
        ("raise KeyboardInterrupt", 130, "Interrupted."),
        ("open('not/there.txt')", 2, "not/there.txt: No such file or directory."),
        ("raise MemoryError", 2, "Out of memory."),
    ],
)
def test_errors_of_the_machine(
    planted: Path, capsys: pytest.CaptureFixture[str], body: str, code: int, message: str
) -> None:
    assert run([plant(planted, "machine", body)]) == code
    text = capsys.readouterr().err
    assert message in text
    assert "Traceback" not in text
    assert errno.ENOSPC == 28


def test_help_texts_are_not_markup(planted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = plant(planted, "masked", "pass").replace("-", "_")
    source = planted / f"{name}.py"
    source.write_text(source.read_text().replace("Do it.", "Fill a [MASK] [default: all]."))
    assert run([name.replace("_", "-"), "--help"]) == 0
    assert "Fill a [MASK] [default: all]." in capsys.readouterr().out


def test_wrong_options_are_one_line(planted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = plant(planted, "plain", "pass")
    assert run([name, "--fast"]) == 2
    assert f"See encodery {name} --help." in capsys.readouterr().err
    assert run(["--fast"]) == 2
    assert "no option '--fast'" in capsys.readouterr().err


def test_version_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith("encodery ")
    with pytest.raises(SystemExit) as left:
        main(["nothing-like-it"])
    assert left.value.code == 2


@pytest.mark.parametrize("verb", list(verbs()))
def test_every_verb_has_a_summary_and_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(verb_summary(verb)) > 10
    load_verb(verb)
    assert run([verb, "--help"]) == 0
    assert "--help" in capsys.readouterr().out


def test_python_dash_m(repository: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "encodery", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("encodery ")
    assert issubclass(UserError, Exception)
