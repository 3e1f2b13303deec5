"""The command line: one file a verb, found by place, imported only when called.

A verb's module opens with a docstring whose first line is its line in `encodery --help`, and has either `app`, a
`typer.Typer` (a verb with sub-verbs), or `command`, a function (a single verb). `import_.py` is the verb `import`.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from typing import TYPE_CHECKING, Any

from encodery.base.errors import ContractError, UnknownName, nearest
from encodery.base.parts import module_summary

if TYPE_CHECKING:
    import typer

# The order of the path; verbs not named here follow in the order of the alphabet.
ORDER = (
    "demo", "corpus", "tokens", "pretrain", "grow", "resume", "evaluate", "report", "fill", "embed", "search", "export",
)  # fmt: skip
COMPLETION = ("install_completion", "show_completion")  # of one verb alone they would complete nothing


def verbs() -> dict[str, str]:
    """Verb and the name of its module, in the order of the path from text to service; nothing is imported."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            found[module.name.rstrip("_").replace("_", "-")] = f"{__name__}.{module.name}"
    rank = {verb: place for place, verb in enumerate(ORDER)}
    return dict(sorted(found.items(), key=lambda item: (rank.get(item[0], len(ORDER)), item[0])))


def verb_summary(verb: str) -> str:
    """What the verb does, in one line, read from its file without importing it."""
    line = module_summary(verbs()[verb])
    line = re.sub(rf"^`?encodery {re.escape(verb)}`?:\s*", "", line)
    return line[:1].upper() + line[1:]


def load_verb(verb: str) -> Any:
    """The command of a verb (typer's, with `.main(args=..., prog_name=...)`); its module is imported now.

    Raises `UnknownName` with the nearest verb, `ContractError` for a module without `app` or `command`.
    """
    known = verbs()
    if verb not in known:
        raise UnknownName(f"encodery has no verb '{verb}'.{nearest(verb, known)} Verbs: {', '.join(known)}.")
    import typer.main

    module = importlib.import_module(known[verb])
    app = getattr(module, "app", None)
    if app is None:
        if not callable(getattr(module, "command", None)):
            raise ContractError(f"{module.__name__} has neither `app` nor `command`.")
        app = _single(module.command)
    app.rich_markup_mode = None  # help texts hold [MASK] and [default: ...], which are no markup
    command = typer.main.get_command(app)
    command.params = [p for p in command.params if p.name not in COMPLETION]
    return command


def _single(function: Any) -> typer.Typer:
    import typer

    app = typer.Typer()
    app.command()(function)
    return app
