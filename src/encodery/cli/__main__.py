"""The entry of the command line: `encodery VERB ...`, help, version, and the one place where errors become text.

A `UserError` is one red line and exit code 2; Ctrl-C is 130; a fault of ours is a traceback, a line on how to report
it and exit code 1. `encodery --debug VERB ...` shows the traceback of users' errors too.
"""

from __future__ import annotations

import errno
import os
import platform
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version

from encodery.base.errors import DiskFull, UserError
from encodery.cli import load_verb, verb_summary, verbs

USAGE_EXIT, INTERRUPTED_EXIT = 2, 130
OPTIONS = (
    ("--help", "Show this page"),
    ("--version", "Show the version"),
    ("--debug", "Show tracebacks of all errors"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = given[:1] == ["--debug"]
    code = run(given[debug:], debug)
    _flush()
    sys.exit(code)


def run(arguments: Sequence[str], debug: bool = False) -> int:
    """Run `VERB ...` and return its exit code; errors are printed to standard error."""
    try:
        return _dispatch(list(arguments))
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED_EXIT
    except UserError as error:
        return _say(str(error), debug)
    except BrokenPipeError:
        _silence()
        return 0
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = f"{error.filename}: " if error.filename else ""
            return _say(
                str(DiskFull(f"{where}no space left on the device. What was finished before is intact.")), debug
            )
        if error.filename is not None and isinstance(
            error, FileNotFoundError | FileExistsError | PermissionError | NotADirectoryError | IsADirectoryError
        ):
            return _say(f"{error.filename}: {error.strerror}.", debug)
        return _report_fault()
    except MemoryError:
        return _say("Out of memory. A smaller batch (train.batch_tokens=...) or a smaller model needs less.", debug)
    except Exception:
        return _report_fault()


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        show_help()
        return 0
    if arguments[0] in ("--version", "-V"):
        print(f"encodery {version('encodery')}")
        return 0
    verb, rest = arguments[0], arguments[1:]
    if verb.startswith("-"):
        raise UserError(f"encodery has no option '{verb}'. It has {', '.join(name for name, _ in OPTIONS)}.")
    command = load_verb(verb)
    import typer

    try:
        returned = command.main(args=rest, prog_name=f"encodery {verb}", standalone_mode=False)
    except typer.Exit as leave:
        return leave.exit_code
    except typer.Abort as error:
        raise KeyboardInterrupt from error
    except Exception as error:
        usage = _usage_message(error)
        if usage is None:
            raise
        if usage:
            _say(f"{usage} See encodery {verb} --help.", False)
        return USAGE_EXIT
    if returned == INTERRUPTED_EXIT:
        raise KeyboardInterrupt
    return returned if isinstance(returned, int) else 0


def _usage_message(error: Exception) -> str | None:
    """The text of an error of the argument parser; None if it is some other error."""
    import typer

    parser_errors = [base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException"]
    if not isinstance(error, tuple(parser_errors)):
        return None
    message = str(error.format_message())  # type: ignore[attr-defined]
    if type(error).__name__ == "NoArgsIsHelpError":
        print(message)
        return ""
    return message


def show_help() -> None:
    """Print the verbs, each with its line; nothing heavy is imported."""
    from rich.table import Table
    from rich.text import Text

    from encodery.cli._screen import screen

    console = screen(highlight=True)
    console.print(Text.assemble("Usage: ", ("encodery VERB ...", "bold"), "\n"))
    console.print("From a folder of text to your own trained, searchable, exported encoder.\n", highlight=False)
    for title, rows in (("Verbs", [(verb, verb_summary(verb)) for verb in verbs()]), ("Options", list(OPTIONS))):
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold cyan", no_wrap=True, min_width=10)
        table.add_column()
        for name, line in rows:
            table.add_row(Text(f"  {name}"), Text(line))
        console.print(Text(title, style="bold"))
        console.print(table)
        console.print()
    console.print("encodery VERB --help says more; settings are given as path=value.", highlight=False)


def _say(message: str, debug: bool) -> int:
    """One red line on standard error."""
    if debug:
        traceback.print_exc()
    from rich.text import Text

    from encodery.cli._screen import screen

    screen(stderr=True, soft_wrap=True, highlight=True).print(Text.assemble(("error: ", "bold red"), (message, "red")))
    return USAGE_EXIT


def _report_fault() -> int:
    traceback.print_exc()
    print(
        f"\nThis is a fault of encodery {version('encodery')} (Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}), not of your input.\n"
        "Please report it with the lines above and the command you gave.",
        file=sys.stderr,
    )
    return 1


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _silence()


def _silence() -> None:
    """The reader of our output has gone: nothing more is written, also not when Python closes the file."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
