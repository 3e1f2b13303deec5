"""The command line: one file per verb, registered by its place in this folder and imported only when it is called.

The first line of a verb's module docstring is its line in `encodery --help`. A module has either `command`, a function
(a single verb), or `app`, a `typer.Typer` (a group). A group with one file per sub-verb is a package whose `app` comes
from `group`. A package with its own `command` (`pretrain`) has sub-verbs beside it (`pretrain grow`). A trailing
underscore avoids a Python keyword: `import_.py` is the verb `import`.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from encodery.base.errors import ContractError, UnknownName, nearest
from encodery.base.parts import module_summary

if TYPE_CHECKING:
    import typer

# The order of `encodery --help`: the path from text to service. Verbs that are not listed follow in alphabetical order.
ORDER = (
    "demo", "corpus", "tokens", "pretrain", "resume", "report", "fill", "finetune", "predict", "embed", "compress",
    "model", "search", "evaluate", "serve", "show", "papers",
)  # fmt: skip
COMPLETION = ("install_completion", "show_completion")  # Shell completion for a single verb would complete nothing.


def verbs() -> dict[str, str]:
    """Return the module name of each verb, in the order of `encodery --help`. Nothing is imported."""
    modules = {
        _verb_name(module.name): f"{__name__}.{module.name}"
        for module in pkgutil.iter_modules(__path__)
        if not module.name.startswith("_")
    }
    rank = {verb: place for place, verb in enumerate(ORDER)}
    return dict(sorted(modules.items(), key=lambda item: (rank.get(item[0], len(ORDER)), item[0])))


def sub_verbs(package: str) -> dict[str, str]:
    """Return the module name of each sub-verb that lies in the package of a verb; empty for a plain module."""
    spec = importlib.util.find_spec(package)
    folders = [] if spec is None else spec.submodule_search_locations or []
    return {
        _verb_name(module.name): f"{package}.{module.name}"
        for module in pkgutil.iter_modules(list(folders))
        if not module.name.startswith("_")
    }


def verb_summary(verb: str) -> str:
    """Return the one-line summary of a verb, read from its file without importing it."""
    line = module_summary(verbs()[verb])
    line = re.sub(rf"^`?encodery {re.escape(verb)}`?:\s*", "", line)
    return line[:1].upper() + line[1:]


def group(package: str, summary: str) -> typer.Typer:
    """Return the Typer application of a group: one command for each public module of `package`, in its `command`."""
    import typer

    app = typer.Typer(help=summary, no_args_is_help=True)
    for name, module in sub_verbs(package).items():
        app.command(name)(importlib.import_module(module).command)
    return app


def load_verb(verb: str, arguments: Sequence[str] = ()) -> tuple[Any, str, list[str]]:
    """Import a verb and return its Typer command, its full name and the arguments that remain for it.

    Args:
        verb: the first word after `encodery`.
        arguments: the words after it; the first may name a sub-verb of a verb that has its own `command`.

    Raises:
        UnknownName: if there is no such verb; the message names the nearest one.
        ContractError: if the module has neither `app` nor `command`.
    """
    known, rest = verbs(), list(arguments)
    if verb not in known:
        raise UnknownName(f"encodery has no verb '{verb}'.{nearest(verb, known)} Verbs: {', '.join(known)}.")
    import typer.main

    module, name = importlib.import_module(known[verb]), verb
    app = getattr(module, "app", None)
    if app is None:
        below = sub_verbs(known[verb])
        if rest and rest[0] in below:
            name, module = f"{verb} {rest[0]}", importlib.import_module(below[rest[0]])
            rest = rest[1:]
        if not callable(getattr(module, "command", None)):
            raise ContractError(f"{module.__name__} has neither `app` nor `command`.")
        app = _single(module.command)
    app.rich_markup_mode = None  # Help texts contain [MASK] and [default: ...], which are not markup.
    command = typer.main.get_command(app)
    command.params = [p for p in command.params if p.name not in COMPLETION]
    return command, name, rest


def _verb_name(module: str) -> str:
    return module.rstrip("_").replace("_", "-")


def _single(function: Any) -> typer.Typer:
    import typer

    app = typer.Typer()
    app.command()(function)
    return app
