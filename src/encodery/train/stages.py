"""Runs in stages, each of which begins with what the last one learnt: a small model first, then a larger one.

`grow`: a small model is trained, grown to the sizes of the recipe (`surgery.grow`, arXiv:2110.07143; or `surgery.tile`)
and trained on. `cycle`: a V-cycle (arXiv:2404.07999) of two levels: the large model begins, is coalesced to a small
one, which learns faster, is grown back and mixed into the large one as it was, which then goes on.

A stage is a folder: a run or a model. One that is finished stays as it is and one that was interrupted is resumed, so
the same call goes on where it stopped. Optimisers start anew in every stage.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from encodery.base import machine
from encodery.base.artifact import MANIFEST
from encodery.base.errors import SettingsError
from encodery.base.settings import decode, encode, merge_tables
from encodery.merging.average import Average
from encodery.model.load import Provenance, load_model, save_model
from encodery.model.network import model_of_state
from encodery.model.settings import ModelSettings
from encodery.surgery import Surgery
from encodery.surgery.coalesce import Coalesce
from encodery.surgery.grow import Grow
from encodery.tokens.store import TokenStore
from encodery.train.budget import Budget
from encodery.train.distributed import init_distributed
from encodery.train.launch import read_recipe, resume, start
from encodery.train.loop import METRICS, RECIPE
from encodery.train.pretrain import recipe_of
from encodery.train.pretrain_settings import PretrainSettings, read_settings

if TYPE_CHECKING:
    from rich.console import Console

SIZES = ("width", "depth", "heads", "head_size", "intermediate_size")
GROWN_MODEL = "grown"


@dataclass(frozen=True)
class StageResult:
    """How far it came: the last run's folder, whether it is the last of all and finished, and its figures if so."""

    folder: Path
    finished: bool
    metrics: dict[str, Any]


def grow(
    recipe: str,
    small: str,
    overrides: Mapping[str, Any],
    store: TokenStore,
    out: Path,
    small_fraction: float = 1 / 3,
    surgery: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> StageResult:
    """Train the model of the recipe `small` for `share` of the budget, grow it to that of `recipe`, train that for the
    rest. `over` are settings of both, but sizes of the model and `optim` are those of the large one. `surgery`: how to
    grow ({"method": "aki"}; {"is": "tile"}).

    Raises `SettingsError` where the two recipes' models differ in more than their sizes.
    """
    _check_share("share", small_fraction)
    large = read_settings(recipe, overrides, store)
    budget = Budget.parse(large.train.budget)
    first = _with_budget(read_settings(small, _without_sizes(overrides), store), budget, small_fraction)
    _check_same_parts(first.model, large.model, small, recipe)
    part = decode(Surgery, merge_tables({"is": "grow"}, {**_sizes(large.model), **(surgery or {})}), "grow")
    run = _run(recipe_of(first, store, small), out / "small", console)
    if not run.finished:
        return run
    grown = _changed(run.folder, part, out / GROWN_MODEL, large.train.seed)
    after = _with_budget(
        read_settings(recipe, {**overrides, "init_from": str(grown)}, store), budget, 1 - small_fraction
    )
    return _run(recipe_of(after, store, recipe), out / "large", console)


def cycle(
    recipe: str,
    overrides: Mapping[str, Any],
    store: TokenStore,
    out: Path,
    large_first: float = 0.05,
    small_fraction: float = 0.45,
    mix: float = 0.25,
    surgery: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> StageResult:
    """Train the model of `recipe` for `lead` of the budget, at a rate that only rises; coalesce it (`surgery`: sizes of
    the small one, by default half of each) and train that for `share`; grow it back, mix `mix` of it into the large one
    as it was, and train that for the rest. `over` are settings of all stages, but sizes of the large model.
    """
    _check_share("lead", large_first)
    _check_share("share", small_fraction)
    _check_share("lead + share", large_first + small_fraction)
    _check_share("mix", mix)
    settings = read_settings(recipe, overrides, store)
    budget = Budget.parse(settings.train.budget)
    rising = read_settings(recipe, merge_tables(overrides, {"train": {"lr_schedule": "0 -> 1 linear"}}), store)
    begun = _run(recipe_of(_with_budget(rising, budget, large_first), store, recipe), out / "lead", console)
    if not begun.finished:
        return begun
    smaller = decode(Coalesce, surgery or {}, "coalesce")
    coalesced = _changed(begun.folder, smaller, out / "coalesced", settings.train.seed)
    small = read_settings(recipe, {**_without_sizes(overrides), "init_from": str(coalesced)}, store)
    run = _run(recipe_of(_with_budget(small, budget, small_fraction), store, recipe), out / "small", console)
    if not run.finished:
        return run
    way = {"symmetry_breaking": 0.0, "layers": smaller.layers, **_sizes(settings.model)}
    mixed = _mixed(begun.folder, run.folder, decode(Grow, way, "grow"), mix, out / GROWN_MODEL, settings.train.seed)
    after = read_settings(recipe, {**overrides, "init_from": str(mixed)}, store)
    return _run(
        recipe_of(_with_budget(after, budget, 1 - large_first - small_fraction), store, recipe), out / "large", console
    )


def _run(table: Mapping[str, Any], folder: Path, console: Console | None) -> StageResult:
    """Start, resume or leave a run, whichever it needs. Raises `SettingsError` if the one there has other settings."""
    wanted = json.loads(json.dumps(table))
    if console is not None and machine.rank() == 0:
        sizes = f"{table['model']['depth']} × {table['model']['width']}"
        console.print(f"[bold]{folder.name}[/]: {sizes}, {table['train']['budget']}", highlight=False)
    if (folder / RECIPE).is_file():
        there = read_recipe(folder)
        other = sorted(key for key in {**there, **wanted} if there.get(key) != wanted.get(key))
        if other:
            raise SettingsError(f"{folder}: was begun with other settings of '{other[0]}'; give another --out.")
        if not (folder / MANIFEST).is_file():
            result = resume(folder, console)
            return StageResult(folder, result.finished, result.metrics)
        return StageResult(folder, True, json.loads((folder / METRICS).read_text(encoding="utf-8")))
    result = start(table, folder, console)
    return StageResult(folder, result.finished, result.metrics)


def _changed(source: Path, part: Surgery, folder: Path, seed: int) -> Path:
    """The model that `part` makes of the one in `source`."""

    def make() -> None:
        loaded = load_model(source)
        part.operate(loaded, torch.Generator().manual_seed(seed)).save(folder, loaded, part)

    return _once(folder, make)


def _mixed(base: Path, small: Path, back: Surgery, mix: float, folder: Path, seed: int) -> Path:
    """(1 - mix) of the weights of one model and mix of what `back` makes of a small one."""

    def make() -> None:
        loaded, other = load_model(base), load_model(small)
        grown = back.operate(other, torch.Generator().manual_seed(seed)).model
        rule = Average(base_weight=1 - mix, weights=(mix,))
        save_model(
            folder,
            model_of_state(loaded.model.settings, rule.merge(loaded.model.state_dict(), [grown.state_dict()])),
            loaded.tokenizer_path,
            settings={"surgery": encode(back), "merging": encode(rule)},
            provenance=Provenance(
                {name: one.artifact for name, one in (("model", loaded), ("small", other)) if one.artifact}
            ),
        )

    return _once(folder, make)


def _once(folder: Path, make: Callable[[], None]) -> Path:
    """`make` writes `folder`; only where it is not there yet, and on rank 0."""
    if machine.rank() == 0 and not (folder / MANIFEST).is_file():
        make()
    if machine.world_size() > 1:
        with init_distributed(torch.device("cpu")) as crew:
            crew.barrier()
    return folder


def _with_budget(settings: PretrainSettings, whole: Budget, share: float) -> PretrainSettings:
    amount = whole.amount * share
    part = Budget(whole.kind, amount if whole.kind == "seconds" else float(max(round(amount), 1)))
    return dataclasses.replace(settings, train=dataclasses.replace(settings.train, budget=str(part)))


def _sizes(model: ModelSettings) -> dict[str, int]:
    """What `grow` needs to know of the model to be reached."""
    shape = model.shape
    return {
        "width": shape.width,
        "heads": shape.heads,
        "intermediate_size": shape.intermediate_size,
        "depth": shape.depth,
    }


def _without_sizes(over: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for a model of another size: without sizes and without the rate, which follows the size."""
    model = {key: value for key, value in over.get("model", {}).items() if key not in SIZES}
    optim = over.get("optim", {})
    optim = {key: value for key, value in optim.items() if key != "lr"} if isinstance(optim, Mapping) else optim
    found = {key: value for key, value in over.items() if key not in ("model", "optim")}
    return found | ({"model": model} if model else {}) | ({"optim": optim} if optim else {})


def _check_same_parts(small: ModelSettings, large: ModelSettings, name: str, recipe: str) -> None:
    one, other = ({k: v for k, v in encode(m).items() if k not in (*SIZES, "init")} for m in (small, large))
    for key in one:
        if one[key] != other[key]:
            raise SettingsError(
                f"model.{key} is {one[key]} in the recipe {name} and {other[key]} in {recipe}: a model grows in its "
                f"sizes only. Give model.{key}=... for both, or a recipe with the same parts."
            )
    if small.shape.head_size != large.shape.head_size:
        raise SettingsError(
            f"The heads of {name} are {small.shape.head_size} wide, those of {recipe} {large.shape.head_size}: growth "
            "keeps that. Give model.heads or model.head_size so that they agree."
        )


def _check_share(name: str, share: float) -> None:
    if not 0 < share < 1:
        raise SettingsError(f"{name} = {share}: is a share, 0 < {name} < 1.")
