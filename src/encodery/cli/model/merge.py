"""encodery model merge: merge the weights of several models that were trained from the same base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from encodery.cli._options import OutModel, Overwrite

if TYPE_CHECKING:
    from encodery.model.load import LoadedModel


def command(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL... [path=value ...]", help="The models to merge, then settings of the method."),
    ],
    out: OutModel,
    base: Annotated[str, typer.Option(help="The model that all others were trained from.")],
    method: Annotated[str, typer.Option(help="The method, one of `encodery show merging`.")] = "average",
    head: Annotated[
        str | None, typer.Option(help="The model among MODEL... whose task head and labels are kept.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The seed of everything that is drawn at random.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Merge the weights of models without training: average, task_arithmetic, dare or ties.

    weights=[0.7,0.3] sets the weight of each model. Task heads are not merged; --head chooses the one that is kept.
    """
    from encodery.base.errors import InputError, SettingsError
    from encodery.base.parts import find_part
    from encodery.base.settings import decode, encode, parse_overrides
    from encodery.cli._screen import screen
    from encodery.cli.model._carry import carried
    from encodery.merging import MergeMethod
    from encodery.model.load import Provenance, load_model, save_model
    from encodery.model.network import model_of_state

    names = [name for name in models if "=" not in name or Path(name).is_dir()]
    rule = decode(
        find_part(MergeMethod, method), parse_overrides(name for name in models if name not in names), where=method
    )
    if head is not None and head not in names:
        raise InputError(f"--head {head}: is not one of the models to merge, {', '.join(names)}.")
    first, others = load_model(base), [load_model(name) for name in names]
    for name, other in zip(names, others, strict=True):
        if _vocabulary(other) != _vocabulary(first):
            raise SettingsError(f"{name}: has another tokenizer than {base}, so that their weights cannot be merged.")
    state = rule.merge(first.model.state_dict(), [other.model.state_dict() for other in others], seed)
    model = model_of_state(first.model.settings, state)
    chosen = first if head is None else others[names.index(head)]
    kept = _kept_settings(first) if head is None else chosen.settings
    has_modules = head is not None or "static" in kept
    parents = {"base": first, **{f"model {number}": other for number, other in enumerate(others, 1)}}
    save_model(
        out,
        model,
        first.tokenizer_path,
        settings={**kept, "merging": encode(rule)},
        modules=carried(chosen, model) if has_modules else {},
        provenance=Provenance(
            {name: parent.artifact for name, parent in parents.items() if parent.artifact is not None}
        ),
        overwrite=overwrite,
    )
    screen().print(f"{out}: {len(others)} models merged by {method}.", soft_wrap=True)


def _kept_settings(base: LoadedModel) -> dict[str, Any]:
    """Return the embedding settings of the base: those without trained modules, and those of a static model, whose
    embeddings are the weights that are merged."""
    if "dense" in base.settings and "dense" in base.modules():
        return {}
    return {name: base.settings[name] for name in ("dense", "static") if name in base.settings}


def _vocabulary(loaded: LoadedModel) -> str:
    return "" if loaded.tokenizer_path is None else loaded.tokenizer.fingerprint
