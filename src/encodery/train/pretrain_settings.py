"""The settings of a pre-training, and how a recipe, the tokens and a model to continue from decide them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from encodery.adapt import Adaptation
from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.base.recipes import load_recipe
from encodery.base.schedule import Schedule
from encodery.base.settings import decode, encode, merge_tables
from encodery.model import count
from encodery.model.layer_sizes import LayerSizes
from encodery.model.load import load_model
from encodery.model.settings import ModelSettings
from encodery.objectives import Objective
from encodery.objectives.mlm import MaskedLM
from encodery.tokens.loader import LoaderSettings
from encodery.tokens.store import TokenStore
from encodery.train.data_init import DataInit
from encodery.train.data_init.random import RandomInit
from encodery.train.hooks import Hook
from encodery.train.memory_estimate import OPTIMIZER_STATE_BYTES, STATE_BYTES, MemoryEstimate
from encodery.train.optim import Optimizer
from encodery.train.optim.adamw import AdamW
from encodery.train.settings import DEFAULT_BATCH, TrainSettings

WORKING_BYTES = 8  # of a parameter while its layer runs: weight, gradient
PREDICTED_FRACTION = 0.3  # of the tokens, assumed for the memory of activations


@dataclass(frozen=True, kw_only=True)
class PretrainSettings:
    """A recipe of `encodery pretrain`. `model.vocab_size` and `feed.batch_tokens` follow the tokens and `train`.

    `init_from`: a model to continue from (a model, run or Hugging Face folder); `model` is then that model's, and a
    longer `feed.max_length` of the recipe is lowered to its length. `adapt`: what of it is trained (None: everything).
    `data_init`: how the weights of a new model are initialised from the text."""

    model: ModelSettings = field(default_factory=ModelSettings)
    objective: Objective = field(default_factory=MaskedLM)
    optim: Optimizer = field(default_factory=AdamW)
    feed: LoaderSettings = field(default_factory=LoaderSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    hooks: tuple[Hook, ...] = ()
    data_init: DataInit = field(default_factory=RandomInit)
    init_from: str | None = None
    adapt: Adaptation | None = None

    def __post_init__(self) -> None:
        feed = dataclasses.replace(self.feed, batch_tokens=round(self.train.batch_tokens.maximum))
        object.__setattr__(self, "feed", feed)
        if feed.max_length > self.model.max_length:
            raise SettingsError(
                f"feed.max_length = {feed.max_length}: must be at most model.max_length = {self.model.max_length}."
            )
        reason = self.objective.incompatibility(self.model)
        if reason is not None:
            raise SettingsError(f"objective = '{name_of(self.objective)}': {reason}")
        schedule = self.train.seq_len_schedule
        if schedule is not None and schedule.maximum > feed.max_length:
            raise SettingsError(
                f"train.seq_len_schedule = {schedule}: must not exceed feed.max_length = {feed.max_length}."
            )

    def with_vocab_size(self, vocab_size: int) -> PretrainSettings:
        """The same settings for a tokenizer with `vocab_size` ids."""
        return dataclasses.replace(self, model=dataclasses.replace(self.model, vocab_size=vocab_size))

    def continuing(self, source: str) -> PretrainSettings:
        """The same settings for the pre-training of an existing model, a path or a name on the hub, to be continued."""
        table = _with_source_model({**encode(self), "init_from": None}, source)
        return decode(PretrainSettings, table, f"settings for {source}")

    def memory_estimate(self) -> MemoryEstimate:
        """Memory and disk, from the settings alone."""
        model, train, length = self.model, self.train, self.feed.max_length
        parameters = count.num_parameters(model) + self.objective.num_parameters(model)
        step = round(train.batch_tokens.maximum)
        tokens = min(train.micro_batch_tokens, step)

        def estimate(activations: int) -> MemoryEstimate:
            return MemoryEstimate.of(parameters, activations, len(self.hooks), train.keep, train.optimizer_offload)

        if not train.layerwise_offload:
            kept = train.activation_checkpointing
            own = self.objective.activation_bytes(model, tokens, length)
            return estimate(
                own + count.activation_bytes(model, tokens, length, PREDICTED_FRACTION, activation_checkpointing=kept)
            )
        # The inputs of each layer are kept for the whole step, and the inside of one layer for one micro-batch.
        inputs = 4 * step * (model.depth + 1) * model.width
        inside = count.activation_bytes(_largest_layer(model), tokens, length, PREDICTED_FRACTION)
        layers = count.num_parameters(model) - count.num_parameters(model.with_depth(0))
        state = STATE_BYTES + 4 * len(self.hooks) - (OPTIMIZER_STATE_BYTES if train.optimizer_offload else 0)
        on_device = max(count.layer_parameters(model), default=0) * WORKING_BYTES
        return estimate(inputs + inside).with_host_weights(layers * state, on_device)


def _largest_layer(model: ModelSettings) -> ModelSettings:
    """A model of one layer, which has the largest sizes of any."""
    heads = max((shape.heads for shape in model.layer_shapes), default=model.heads)
    inner = max((shape.intermediate_size for shape in model.layer_shapes), default=model.shape.intermediate_size)
    largest = LayerSizes(heads=heads, intermediate_size=inner)
    return dataclasses.replace(model, depth=1, layers=(largest,) if model.layers else (), layer_groups=())


def read_settings(name: str, overrides: Mapping[str, Any], store: TokenStore) -> PretrainSettings:
    """The settings of a recipe for a token store.

    Args: `name`: a recipe by name or path; `overrides`: a table of settings that replace those of the recipe. The
    vocabulary size is that of the store unless `overrides` gives another. Raises `SettingsError`, and `UnknownName`
    with the nearest name."""
    where = f"recipe {name}"
    table = load_recipe("pretrain", name)
    source = overrides.get("init_from", table.get("init_from"))
    if isinstance(source, str) and source != "none":
        table = _with_source_model(table, source)
        overrides = {**overrides, "init_from": table["init_from"]}
    defaults = encode(PretrainSettings())
    base = decode(PretrainSettings, _with_loader_batch(merge_tables(defaults, table), table), where)
    merged = merge_tables(encode(base), overrides)
    settings = decode(PretrainSettings, _with_loader_batch(merged, overrides), where)
    if settings.init_from is not None or "vocab_size" in overrides.get("model", {}):
        return settings
    return settings.with_vocab_size(store.special_tokens.vocab_size)


def _with_source_model(table: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The table of a recipe with the model of `source`: its sizes, its parts, and at most its length."""
    model = encode(load_model(source).model.settings)
    if model["head"] is None:
        model["head"] = table.get("model", {}).get("head", encode(ModelSettings().head))
    max_length = min(table.get("feed", {}).get("max_length", LoaderSettings().max_length), model["max_length"])
    path = str(Path(source).resolve()) if Path(source).is_dir() else source
    return {**table, "init_from": path, "model": model, "feed": {**table.get("feed", {}), "max_length": max_length}}


def _with_loader_batch(table: Mapping[str, Any], user: Mapping[str, Any]) -> dict[str, Any]:
    """The table with the loader's batch equal to that of `train`; `user` must not set the loader's."""
    if "batch_tokens" in user.get("feed", {}):
        raise SettingsError("feed.batch_tokens: is train.batch_tokens in pre-training; set that instead.")
    batch = round(Schedule.parse(table.get("train", {}).get("batch_tokens", DEFAULT_BATCH)).maximum)
    max_length = table.get("feed", {}).get("max_length", 0)
    if isinstance(max_length, int) and max_length > batch:
        raise SettingsError(f"train.batch_tokens = {batch}: must be at least feed.max_length = {max_length}.")
    return merge_tables(table, {"feed": {"batch_tokens": batch}})
