"""encodery merge: make one model of several that grew out of the same base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from encodery.model.load import Loaded


def command(
    base: Annotated[str, typer.Argument(help="The model all others were trained from.")],
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL ... [path=value ...]", help="The models; settings of the rule.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The model folder to write.")],
    by: Annotated[str, typer.Option(help="The rule, one of `encodery show merging`.")] = "average",
    head: Annotated[str | None, typer.Option(help="Of these models: the one whose task (head, labels) stays.")] = None,
    seed: Annotated[int, typer.Option(help="Of whatever is drawn at random.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in the folder.")] = False,
) -> None:
    """Merge the weights of models, without training: average, task_arithmetic, dare, ties.

    weights=[0.7,0.3] says how much each counts. What a task put on top is not merged: --head says whose stays.
    """
    from encodery.base.errors import InputError, SettingsError
    from encodery.base.parts import find
    from encodery.base.settings import decode, encode, overrides
    from encodery.cli._carry import carried
    from encodery.cli._screen import screen
    from encodery.merging import Merging
    from encodery.model.foreign import build
    from encodery.model.load import load_model, save_model

    names = [name for name in models if "=" not in name or Path(name).is_dir()]
    rule = decode(find(Merging, by), overrides(name for name in models if name not in names), where=by)
    if head is not None and head not in names:
        raise InputError(f"--head {head}: is none of the models to merge, {', '.join(names)}.")
    first, others = load_model(base), [load_model(name) for name in names]
    for name, other in zip(names, others, strict=True):
        if _vocabulary(other) != _vocabulary(first):
            raise SettingsError(f"{name}: has another vocabulary than {base}; their weights mean different things.")
    state = rule.merge(first.model.state_dict(), [other.model.state_dict() for other in others], seed)
    chosen = first if head is None else others[names.index(head)]
    model = build(first.model.settings, state)
    kept = chosen.settings if head is not None else {"embed": first.settings["embed"]} if _pools(first) else {}
    parents = {"base": first, **{f"model {number}": other for number, other in enumerate(others, 1)}}
    save_model(
        out,
        model,
        first.tokenizer_path,
        settings={**kept, "merging": encode(rule)},
        modules={} if head is None else carried(chosen, model),
        parents={name: parent.artifact for name, parent in parents.items() if parent.artifact is not None},
        overwrite=overwrite,
    )
    screen().print(f"{out}: {len(others)} models merged by {by}.", soft_wrap=True)


def _pools(loaded: Loaded) -> bool:
    """Whether it says how to embed, and nothing was learnt for that beside the encoder."""
    return "embed" in loaded.settings and "embed" not in loaded.modules()


def _vocabulary(loaded: Loaded) -> str:
    return "" if loaded.tokenizer_path is None else loaded.tokenizer.fingerprint
