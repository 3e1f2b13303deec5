"""What a pre-training is made of, and how a recipe, the tokens and a model to go on from decide it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from encodery.adapt import Adaptation
from encodery.base.errors import SettingsError
from encodery.base.schedule import Schedule
from encodery.base.settings import decode, encode, load_recipe, merge_tables
from encodery.model import count
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

WORKING_BYTES = 8  # of a parameter at work: weight, gradient


@dataclass(frozen=True, kw_only=True)
class PretrainSettings:
    """A recipe of `encodery pretrain`. `model.vocab_size` and `feed.batch_tokens` follow the tokens and `train`.

    `init_from`: a model to go on from (a model, run or Hugging Face folder); `model` is then its own, and a longer
    `feed.max_length` of the recipe becomes the model's. `adapt`: what of it learns (None: everything). `begin`: what a
    model that goes on from none knows of the text before its first step.
    """

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
                f"feed.max_length = {feed.max_length}: the model takes at most model.max_length = "
                f"{self.model.max_length} tokens."
            )
        if self.train.seq_len_schedule is not None and self.train.seq_len_schedule.maximum > feed.max_length:
            raise SettingsError(
                f"train.seq_len_schedule = {self.train.seq_len_schedule}: exceeds feed.max_length = {feed.max_length}."
            )

    def with_vocab_size(self, vocab_size: int) -> PretrainSettings:
        """The same for a tokenizer with so many ids."""
        return dataclasses.replace(self, model=dataclasses.replace(self.model, vocab_size=vocab_size))

    def memory_estimate(self) -> MemoryEstimate:
        """Memory and disk, from the settings alone."""
        parameters = count.num_parameters(self.model) + self.objective.num_parameters(self.model)
        tokens = min(self.train.micro_batch_tokens, round(self.train.batch_tokens.maximum))
        kept = self.train.activation_checkpointing
        activations = count.activation_bytes(
            self.model, tokens, self.feed.max_length, 0.3, activation_checkpointing=kept
        )
        if not self.train.layerwise_offload:
            return MemoryEstimate.of(
                parameters, activations, len(self.hooks), self.train.keep, self.train.optimizer_offload
            )
        # What goes into each layer is kept of the whole step, and the insides of one layer of a micro-batch.
        model, step = self.model, round(self.train.batch_tokens.maximum)
        inputs = 4 * step * (model.depth + 1) * model.width
        inside = count.activation_bytes(dataclasses.replace(model, depth=1), tokens, self.feed.max_length, 0.3)
        rest = MemoryEstimate.of(
            parameters, inputs + inside, len(self.hooks), self.train.keep, self.train.optimizer_offload
        )
        layers = count.num_parameters(model) - count.num_parameters(dataclasses.replace(model, depth=0))
        held = STATE_BYTES + 4 * len(self.hooks) - (OPTIMIZER_STATE_BYTES if self.train.optimizer_offload else 0)
        return rest.with_host_weights(layers * held, layers // max(model.depth, 1) * WORKING_BYTES)


def read_settings(name: str, overrides: Mapping[str, Any], store: TokenStore) -> PretrainSettings:
    """A recipe by name or path, with settings laid over it, for a store. The model's vocabulary is that of the store
    unless `over` says another. Raises `SettingsError` and `UnknownName` with the nearest name."""
    where = f"recipe {name}"
    table = load_recipe("pretrain", name)
    source = overrides.get("init_from", table.get("init_from"))
    if isinstance(source, str) and source != "none":
        table = _inheriting(table, source)
        overrides = {**overrides, "init_from": table["init_from"]}
    base = decode(PretrainSettings, _with_feed(merge_tables(encode(PretrainSettings()), table), table), where)
    settings = decode(PretrainSettings, _with_feed(merge_tables(encode(base), overrides), overrides), where)
    if settings.init_from is not None or "vocab" in overrides.get("model", {}):
        return settings
    return settings.with_vocab_size(store.special_tokens.vocab_size)


def _inheriting(table: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The table of a recipe with the model of `source`: sizes, parts, and at most its length."""
    given = load_model(source)
    model = encode(given.model.settings)
    if model["head"] is None:
        model["head"] = table.get("model", {}).get("head", encode(ModelSettings().head))
    longest = min(table.get("feed", {}).get("max_length", LoaderSettings().max_length), model["max_length"])
    place = str(Path(source).resolve()) if Path(source).is_dir() else source
    return {**table, "init_from": place, "model": model, "feed": {**table.get("feed", {}), "max_length": longest}}


def _with_feed(table: Mapping[str, Any], given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The table with the feed's batch that of `train`; one `given` for the feed is refused."""
    if "batch_tokens" in (table if given is None else given).get("feed", {}):
        raise SettingsError("feed.batch_tokens: is that of training here; set train.batch_tokens.")
    batch = round(Schedule.parse(table.get("train", {}).get("batch_tokens", DEFAULT_BATCH)).maximum)
    longest = table.get("feed", {}).get("max_length", 0)
    if isinstance(longest, int) and longest > batch:
        raise SettingsError(f"train.batch_tokens = {batch}: must be at least feed.max_length = {longest}.")
    return merge_tables(table, {"feed": {"batch_tokens": batch}})
