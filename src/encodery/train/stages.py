"""Training in stages, each of which starts from the result of the one before: a small model first, then a larger one.

`grow`: a small model is trained, grown to the sizes of the recipe (`surgery.grow`, arXiv:2110.07143; or `surgery.tile`)
and trained further. `cycle`: a V-cycle (arXiv:2404.07999) of two levels: the large model starts, is coalesced to a
small one, which trains faster, is grown back and mixed into the large one as it was, which is then trained further.

A stage is a folder: a run or a model. A finished stage stays as it is and an interrupted one is resumed, so the same
call continues where it stopped. Every stage starts with a new optimiser state."""

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
from encodery.train.launch import resume, start
from encodery.train.loop import METRICS
from encodery.train.pretrain import pretrain_recipe
from encodery.train.pretrain_settings import PretrainSettings, read_settings
from encodery.train.recipe import RECIPE, read_recipe_table

if TYPE_CHECKING:
    from rich.console import Console

SIZES = ("width", "depth", "heads", "head_size", "intermediate_size")
GROWN_MODEL = "grown"


@dataclass(frozen=True)
class StageResult:
    """The last run that was reached: its folder, whether it is the last of all and finished, and its metrics if so."""

    folder: Path
    finished: bool
    metrics: dict[str, Any]


@dataclass(frozen=True)
class StagedTraining:
    """What all stages share: recipe `name`, its settings' `overrides`, the token store, the output folder."""

    name: str
    overrides: Mapping[str, Any]
    store: TokenStore
    out: Path
    console: Console | None = None

    def settings(self, **changes: Any) -> PretrainSettings:
        """The settings of the recipe, with further changes to the overrides."""
        return read_settings(self.name, merge_tables(self.overrides, changes), self.store)

    def run(self, folder: str, settings: PretrainSettings, name: str | None = None) -> StageResult:
        """Start, resume or leave the run of a stage, whichever it needs."""
        return _run(settings, self.store, name or self.name, self.out / folder, self.console)


def grow(
    stages: StagedTraining,
    small: str,
    small_fraction: float = 1 / 3,
    surgery: Mapping[str, Any] | None = None,
) -> StageResult:
    """Train a small model, grow it, and train the large one.

    Args: `stages`: the recipe of the large model, and settings of both, except that sizes of the model and `optim` are
    those of the large one. `small`: the recipe of the small model. `small_fraction`: the fraction of the budget for the
    small model. `surgery`: how to grow ({"method": "aki"}; {"is": "tile"}). Raises `SettingsError` if the models of the
    recipes differ in more than their sizes."""
    _check_fraction("small_fraction", small_fraction)
    large = stages.settings()
    budget = Budget.parse(large.train.budget)
    small_settings = read_settings(small, _without_sizes(stages.overrides), stages.store)
    first = _with_budget(small_settings, budget, small_fraction)
    _check_same_parts(first.model, large.model, small, stages.name)
    part = decode(Surgery, merge_tables({"is": "grow"}, {**_sizes(large.model), **(surgery or {})}), "grow")
    run = stages.run("small", first, name=small)
    if not run.finished:
        return run
    grown = _operate(run.folder, part, stages.out / GROWN_MODEL, large.train.seed)
    return stages.run("large", _with_budget(stages.settings(init_from=str(grown)), budget, 1 - small_fraction))


def cycle(
    stages: StagedTraining,
    large_first: float = 0.05,
    small_fraction: float = 0.45,
    mix: float = 0.25,
    surgery: Mapping[str, Any] | None = None,
) -> StageResult:
    """Train the large model, then a coalesced small one, then the large one with a part of the small one mixed in.

    Args: `stages`: the recipe and its settings, for all stages except that sizes are those of the large model.
    `large_first`: the fraction of the budget for the first stage, whose learning rate only rises. `surgery`: the sizes
    of the small model (default: half of each). `small_fraction`: the fraction of the budget for the small model. `mix`:
    the weight of the grown-back small model in the large one."""
    for name, fraction in (("large_first", large_first), ("small_fraction", small_fraction), ("mix", mix)):
        _check_fraction(name, fraction)
    _check_fraction("large_first + small_fraction", large_first + small_fraction)
    settings, out = stages.settings(), stages.out
    budget, seed = Budget.parse(settings.train.budget), settings.train.seed
    rising = stages.settings(train={"lr_schedule": "0 -> 1 linear"})
    first = stages.run("first", _with_budget(rising, budget, large_first))
    if not first.finished:
        return first
    coalesce = decode(Coalesce, surgery or {}, "coalesce")
    coalesced = _operate(first.folder, coalesce, out / "coalesced", seed)
    overrides = {**_without_sizes(stages.overrides), "init_from": str(coalesced)}
    small = read_settings(stages.name, overrides, stages.store)
    run = stages.run("small", _with_budget(small, budget, small_fraction))
    if not run.finished:
        return run
    back = decode(Grow, {"symmetry_breaking": 0.0, "layers": coalesce.layers, **_sizes(settings.model)}, "grow")
    mixed = _mix(first.folder, run.folder, back, mix, out / GROWN_MODEL, seed)
    last = stages.settings(init_from=str(mixed))
    return stages.run("large", _with_budget(last, budget, 1 - large_first - small_fraction))


def _run(
    settings: PretrainSettings, store: TokenStore, name: str, folder: Path, console: Console | None
) -> StageResult:
    """Start, resume or leave a run. Raises `SettingsError` if the folder holds a run with other settings."""
    recipe = pretrain_recipe(settings, store, name)
    if console is not None and machine.rank() == 0:
        sizes = f"{settings.model.depth} × {settings.model.width}"
        console.print(f"[bold]{folder.name}[/]: {sizes}, {settings.train.budget}", highlight=False)
    if (folder / RECIPE).is_file():
        before, now = read_recipe_table(folder), json.loads(json.dumps(recipe.encode()))
        before, now = ({**table, **table["settings"]} for table in (before, now))
        changed = sorted(key for key in {**before, **now} if key != "settings" and before.get(key) != now.get(key))
        if changed:
            raise SettingsError(f"{folder}: was started with other settings of '{changed[0]}'; give another --out.")
        if not (folder / MANIFEST).is_file():
            result = resume(folder, console)
            return StageResult(folder, result.finished, result.metrics)
        return StageResult(folder, True, json.loads((folder / METRICS).read_text(encoding="utf-8")))
    result = start(recipe, folder, console)
    return StageResult(folder, result.finished, result.metrics)


def _operate(source: Path, surgery: Surgery, folder: Path, seed: int) -> Path:
    """Write the model that a surgery makes of the model in `source`."""

    def make() -> None:
        loaded = load_model(source)
        surgery.operate(loaded, torch.Generator().manual_seed(seed)).save(folder, loaded, surgery)

    return _once(folder, make)


def _mix(base: Path, small: Path, back: Surgery, mix: float, folder: Path, seed: int) -> Path:
    """Write (1 - mix) of the weights of one model plus mix of those that `back` makes of a small one."""

    def make() -> None:
        loaded, other = load_model(base), load_model(small)
        grown = back.operate(other, torch.Generator().manual_seed(seed)).model
        method = Average(base_weight=1 - mix, weights=(mix,))
        save_model(
            folder,
            model_of_state(loaded.model.settings, method.merge(loaded.model.state_dict(), [grown.state_dict()])),
            loaded.tokenizer_path,
            settings={"surgery": encode(back), "merging": encode(method)},
            provenance=Provenance(
                {name: one.artifact for name, one in (("model", loaded), ("small", other)) if one.artifact}
            ),
        )

    return _once(folder, make)


def _once(folder: Path, make: Callable[[], None]) -> Path:
    """Let `make` write `folder` if it is missing, on rank 0 only."""
    if machine.rank() == 0 and not (folder / MANIFEST).is_file():
        make()
    if machine.world_size() > 1:
        with init_distributed(torch.device("cpu")) as distributed:
            distributed.barrier()
    return folder


def _with_budget(settings: PretrainSettings, whole: Budget, fraction: float) -> PretrainSettings:
    amount = whole.amount * fraction
    part = Budget(whole.kind, amount if whole.kind == "seconds" else float(max(round(amount), 1)))
    return dataclasses.replace(settings, train=dataclasses.replace(settings.train, budget=str(part)))


def _sizes(model: ModelSettings) -> dict[str, int]:
    """The sizes that `grow` needs of the target model."""
    shape = model.shape
    sizes = {"width": shape.width, "heads": shape.heads, "depth": shape.depth}
    return {**sizes, "intermediate_size": shape.intermediate_size}


def _without_sizes(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides for a model of another size: without sizes, and without the learning rate, which follows the size."""
    model = {key: value for key, value in overrides.get("model", {}).items() if key not in SIZES}
    optim = overrides.get("optim", {})
    optim = {key: value for key, value in optim.items() if key != "lr"} if isinstance(optim, Mapping) else optim
    rest = {key: value for key, value in overrides.items() if key not in ("model", "optim")}
    return rest | ({"model": model} if model else {}) | ({"optim": optim} if optim else {})


def _check_same_parts(small: ModelSettings, large: ModelSettings, name: str, recipe: str) -> None:
    one, other = ({k: v for k, v in encode(m).items() if k not in (*SIZES, "init")} for m in (small, large))
    for key in one:
        if one[key] != other[key]:
            raise SettingsError(
                f"model.{key} is {one[key]} in the recipe {name} and {other[key]} in {recipe}: a model can grow in its "
                f"sizes only. Give model.{key}=... for both, or a recipe with the same parts."
            )
    if small.shape.head_size != large.shape.head_size:
        raise SettingsError(
            f"The heads of {name} have size {small.shape.head_size}, those of {recipe} {large.shape.head_size}: growth "
            "keeps it. Give model.heads or model.head_size so that they are equal."
        )


def _check_fraction(name: str, fraction: float) -> None:
    if not 0 < fraction < 1:
        raise SettingsError(f"{name} = {fraction}: must be above 0 and below 1.")
