"""The entry point of the command line: `encodery VERB ...`, help, version, and the one place where errors become text.

A `UserError` prints one red line and exits with code 2; Ctrl-C exits with 130; a bug of ours prints a traceback and how
to report it, and exits with 1. `encodery --debug VERB ...` also prints the traceback of a user's error.
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
    ("--help", "Show this help"),
    ("--version", "Show the version"),
    ("--debug", "Show the traceback of every error"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = words[:1] == ["--debug"]
    code = run(words[debug:], debug)
    _flush()
    sys.exit(code)


def run(arguments: Sequence[str], debug: bool = False) -> int:
    """Run `VERB ...` and return its exit code. Errors are printed to standard error."""
    try:
        return _dispatch(list(arguments))
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED_EXIT
    except UserError as error:
        return _print_error(str(error), debug)
    except BrokenPipeError:
        _silence()
        return 0
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = f"{error.filename}: " if error.filename else ""
            return _print_error(
                str(DiskFull(f"{where}no space left on the device. Everything finished before is intact.")), debug
            )
        if error.filename is not None and isinstance(
            error, FileNotFoundError | FileExistsError | PermissionError | NotADirectoryError | IsADirectoryError
        ):
            return _print_error(f"{error.filename}: {error.strerror}.", debug)
        return _report_bug()
    except MemoryError:
        return _print_error("Out of memory. Reduce the batch (train.batch_tokens=...) or the model.", debug)
    except Exception:
        return _report_bug()


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        show_help()
        return 0
    if arguments[0] in ("--version", "-V"):
        print(f"encodery {version('encodery')}")
        return 0
    first = arguments[0]
    if first.startswith("-"):
        raise UserError(f"encodery has no option '{first}'. It has {', '.join(name for name, _ in OPTIONS)}.")
    command, verb, rest = load_verb(first, arguments[1:])
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
            _print_error(f"{usage} See encodery {verb} --help.", False)
        return USAGE_EXIT
    if returned == INTERRUPTED_EXIT:
        raise KeyboardInterrupt
    return returned if isinstance(returned, int) else 0


def _usage_message(error: Exception) -> str | None:
    """Return the message of an error of the argument parser, or None for any other error."""
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
    """Print the verbs with their summaries. Nothing heavy is imported."""
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
    console.print(
        "Run `encodery VERB --help` for details. Settings are written as path=value, such as model.depth=4.",
        highlight=False,
    )


def _print_error(message: str, debug: bool) -> int:
    """Print one red line on standard error and return the exit code of a usage error."""
    if debug:
        traceback.print_exc()
    from rich.text import Text

    from encodery.cli._screen import screen

    screen(stderr=True, soft_wrap=True, highlight=True).print(Text.assemble(("error: ", "bold red"), (message, "red")))
    return USAGE_EXIT


def _report_bug() -> int:
    traceback.print_exc()
    print(
        f"\nThis is a bug in encodery {version('encodery')} (Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}), not of your input.\n"
        "Please report it with the lines above and the command that you ran.",
        file=sys.stderr,
    )
    return 1


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _silence()


def _silence() -> None:
    """Discard all further output, because its reader has closed the pipe; Python's own flush at exit included."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
