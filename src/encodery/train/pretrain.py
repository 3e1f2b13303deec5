"""Pre-training: an encoder, an objective and the feed of a packed corpus, as a job of the one loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from encodery.adapt import inject, merge_and_unload
from encodery.base.artifact import Artifact
from encodery.base.errors import EmptyInput, SettingsError
from encodery.base.machine import derive_seed
from encodery.base.parts import name_of
from encodery.base.settings import decode, encode
from encodery.corrupt import Vocabulary
from encodery.model import count
from encodery.model.load import LoadedModel, Provenance, load_model, save_model
from encodery.model.network import Model, build_model, without_heads
from encodery.model.shape import Batch
from encodery.objectives import Count, LossTerm, ObjectiveModule
from encodery.objectives.mlm import MaskedLM
from encodery.tokens.fit import balance
from encodery.tokens.loader import PackedBatch, PackedLoader
from encodery.tokens.prefetch import Prefetch
from encodery.tokens.shuffle import Integers
from encodery.tokens.store import TokenStore
from encodery.tokens.unigram_baseline import unigram_baseline
from encodery.train.data_init.random import RandomInit
from encodery.train.diagnostics import padded_attention_warning
from encodery.train.distributed import DistributedContext
from encodery.train.expected_loss import LossRange
from encodery.train.heldout import heldout_batches, score_mlm
from encodery.train.init_from import build_initialised, check_same_vocabulary, fingerprint, new_heads
from encodery.train.job import Job, MicroBatch, StepBatches
from encodery.train.layered import LayerwiseOffload
from encodery.train.memory_estimate import MemoryEstimate
from encodery.train.optim.adamw import AdamW
from encodery.train.pretrain_settings import PretrainSettings
from encodery.train.scaling_rules import default_lr
from encodery.train.settings import NEUTRAL_SETTINGS
from encodery.train.static_shapes import Compiled, StaticShape

UNUSUAL_LR_RATIO = (
    3.0  # times the rule's rate, or a part of it, from which on a rate is named where the loss is unusual
)
COMPILED_IS_SLOWER = (
    "train.static=compiled is slower than train.static=off on a CPU: within the graph attention compares all tokens of "
    "a micro-batch with each other."
)
DATA_INIT_FELL_BACK = (
    "data_init.is={wanted} came to no more than data_init.is={began}: heads are aimed by learned positions, or by rotary ones "
    "with model.attention.bias=true, where the word table is as wide as the model; words need text with neighbours."
)
BREAK_EVEN_WIDTHS = 6  # widths: the length at which attention costs as much as a block's products


class PretrainJob(Job):
    """Model and objective on the batches of a token store's training split."""

    supports_fsdp = True
    supports_static_shapes = True

    def __init__(
        self,
        settings: PretrainSettings,
        store: TokenStore,
        distributed: DistributedContext,
        device: torch.device,
        name: str = "",
    ) -> None:
        self.settings, self.store, self.distributed, self.device, self.name = settings, store, distributed, device, name
        seed = settings.train.seed
        self.source_model = None if settings.init_from is None else load_model(settings.init_from)
        self.model, self.vocabulary = _begun(settings, store, self.source_model)
        self.data_init_name: str = name_of(self.settings.data_init)
        if self.source_model is None:
            self._begin()
        inject(self.model, settings.adapt, seed)
        if self.source_model is not None:
            new_heads(self.model, self.source_model).requires_grad_(True)
        self.objective: ObjectiveModule = settings.objective.build(settings.model, self.vocabulary)
        self.objective.init_weights(torch.Generator().manual_seed(derive_seed(seed, "objective")))
        self.module: nn.Module = nn.ModuleDict({"model": self.model, "objective": self.objective})
        if settings.train.layerwise_offload:
            self.layered = LayerwiseOffload(self.model, self.objective, device)
            self.layered.place(self.module)
        else:
            self.module.to(device)
        feed = PackedLoader(
            store.train,
            settings.feed,
            derive_seed(seed, "feed"),
            distributed.rank,
            distributed.world,
            balancer=self._seats,
        )
        self.static_shape: StaticShape | None = None
        if settings.train.static != "off":
            of = (
                settings.train,
                settings.objective,
                settings.feed.max_length,
                distributed.world,
                store.special_tokens.pad_id,
            )
            self.static_shape = StaticShape.of(*of)
            feed = PackedLoader(
                store.train,
                settings.feed,
                derive_seed(seed, "feed"),
                distributed.rank,
                distributed.world,
                True,
                self.static_shape.max_sequences,
            )
        if self.static_shape is not None and settings.train.static in ("compiled", "replayed"):
            self.replays = settings.train.static == "replayed"
            if self.replays and device.type != "cuda":
                raise SettingsError("train.static = 'replayed': needs a CUDA device, whose kernels it records.")
            self.around = Compiled(self.model, self.objective, self.static_shape, self.replays)
        # On a CPU the thread would only take turns with the mathematics.
        self.loader = Prefetch(feed) if device.type != "cpu" else feed

    def _begin(self) -> None:
        """The first weights, of rank 0 on all ranks: what is counted may be rounded otherwise elsewhere."""
        seed = derive_seed(self.settings.train.seed, "begin")
        if self.distributed.is_main:
            generator = torch.Generator().manual_seed(seed)
            self.data_init_name = self.settings.data_init.apply(self.model, self.store.train, generator)
        if not isinstance(self.settings.data_init, RandomInit) and self.distributed.world > 1:
            with torch.no_grad():
                for p in self.model.parameters():
                    self.distributed.all_reduce(p if self.distributed.is_main else p.zero_())

    @classmethod
    def rebuild(cls, recipe: Mapping[str, Any], distributed: DistributedContext, device: torch.device) -> PretrainJob:
        """See `Job`. Raises `ArtifactError` where the tokens are gone."""
        return cls(_settings(recipe), TokenStore.open(recipe["tokens"]), distributed, device, recipe.get("recipe", ""))

    @classmethod
    def memory_estimate(cls, recipe: Mapping[str, Any]) -> MemoryEstimate:
        """See `Job`."""
        return _settings(recipe).memory_estimate()

    def identity(self) -> dict[str, Any]:
        """Every setting on which the weights depend, and the fingerprint of the tokens."""
        table = {**encode(self.settings), "tokens": self.store.fingerprint}
        table["train"] = {k: v for k, v in table["train"].items() if k not in NEUTRAL_SETTINGS}
        if self.source_model is not None:
            table["init_from"] = fingerprint(self.source_model)
        # What is not used leaves no trace, so that runs from before there was such a setting can be resumed.
        if self.source_model is not None or isinstance(self.settings.data_init, RandomInit):
            del table["data_init"]
        for part, name in ((table, "init_from"), (table, "adapt"), (table["model"], "extensions")):
            if not part[name]:
                del part[name]
        if self.static_shape is not None:
            table["train"]["frame"] = asdict(self.static_shape)
        return table

    def batches(self, step: int, progress: float, batch_tokens: int, max_length: int | None) -> StepBatches:
        """The global batch is dealt to the micro-batches of all ranks; this rank reads and prepares its own."""
        longest = (
            self.settings.feed.max_length if max_length is None else min(max_length, self.settings.feed.max_length)
        )
        if self.static_shape is not None:
            return self._framed(self.static_shape, step, progress, batch_tokens, longest)
        packed = self.loader.next(batch_tokens, longest)
        micros = [
            MicroBatch(number, self._prepare(_share(packed, packed.micro_batch_ids == number), step, number, progress))
            for number in range(self.distributed.rank, self._parts(batch_tokens, longest), self.distributed.world)
        ]
        return StepBatches(micros, packed.global_tokens, packed.global_tokens * self._flops(packed, progress))

    def _seats(self, sizes: Integers, batch_tokens: int, longest: int) -> Integers:
        """The micro-batch of each sequence, from long to short."""
        return balance(sizes, self._parts(batch_tokens, longest), BREAK_EVEN_WIDTHS * self.settings.model.width)

    def _framed(self, frame: StaticShape, step: int, progress: float, batch_tokens: int, longest: int) -> StepBatches:
        """Each micro-batch is drawn for itself and fills a frame."""
        micros, tokens, flops = list[MicroBatch](), 0, 0.0
        for number in range(
            self.distributed.rank, frame.num_micro_batches(batch_tokens, self.distributed.world), self.distributed.world
        ):
            packed = self.loader.next(frame.tokens, longest)
            flops += packed.global_tokens * self._flops(packed, progress)
            tokens += packed.global_tokens
            micros.append(
                MicroBatch(
                    number, frame.pad_predictions(self._prepare(frame.pad_batch(packed), step, number, progress))
                )
            )
        return StepBatches(micros, tokens, flops)

    def _flops(self, packed: PackedBatch, progress: float) -> float:
        """Of a token, at the lengths of this rank's share."""
        lengths = packed.lengths.astype("int64")
        mean = round(float((lengths * lengths).sum()) / max(packed.tokens, 1) / 8) * 8
        return self.objective.flops(self.settings.model, mean, progress)

    def _parts(self, batch_tokens: int, longest: int) -> int:
        """How many micro-batches a step has over all ranks: as few as fit, the same number for each rank."""
        world = self.distributed.world
        parts = -(-batch_tokens // self.settings.train.micro_batch_tokens)
        parts = -(-max(parts, 1) // world) * world
        if parts * longest > batch_tokens and parts > 1:
            raise SettingsError(
                f"A step of {batch_tokens} tokens cannot be dealt to {parts} micro-batches of sequences up to "
                f"{longest}: raise train.batch_tokens or train.micro_batch_tokens."
            )
        return parts

    def _prepare(self, packed: PackedBatch, step: int, number: int, progress: float) -> Batch:
        longest = packed.max_seqlen if self.static_shape is None else self.static_shape.max_seqlen
        ids, cu_seqlens = torch.from_numpy(packed.ids), torch.from_numpy(packed.cu_seqlens)
        if self.device.type == "cuda":
            ids, cu_seqlens = ids.pin_memory(), cu_seqlens.pin_memory()
        batch = Batch(ids, cu_seqlens, longest)
        if self.device.type != "cpu":
            batch = batch.to(self.device, non_blocking=True)
        generator = torch.Generator(self.device)
        generator.manual_seed(derive_seed(self.settings.train.seed, "masks", step, number))
        return self.objective.prepare(batch, generator, progress)

    def counts(self, batch: Batch) -> dict[str, Count]:
        """See `Job`."""
        return self.objective.counts(batch)

    def terms(self, batch: Batch) -> dict[str, LossTerm]:
        """See `Job`."""
        found: dict[str, LossTerm] = self.objective(self.model, batch)
        return found

    def schedule_values(self, progress: float) -> dict[str, float]:
        """See `Job`."""
        return self.objective.rates(progress)

    def metrics(self) -> dict[str, float]:
        """`epoch`, with its fraction."""
        return {"epoch": self.loader.progress}

    def warnings(self, dtype: torch.dtype) -> list[str]:
        """Slow attention, a compiled step where that is slower, and a beginning of which only a part was possible."""
        feed = self.settings.feed
        count = max(1, min(self.settings.train.micro_batch_tokens, feed.batch_tokens) // feed.max_length)
        layout = Batch.from_sequences([[0] * feed.max_length] * count, device=self.device).layout
        found = padded_attention_warning(self.settings.model, layout, self.device, dtype)
        compiled = isinstance(self.around, Compiled) and self.device.type == "cpu"
        wanted = name_of(self.settings.data_init)
        lesser = (
            None
            if self.data_init_name == wanted
            else DATA_INIT_FELL_BACK.format(wanted=wanted, began=self.data_init_name)
        )
        return [said for said in (found, COMPILED_IS_SLOWER if compiled else None, lesser) if said is not None]

    @cached_property
    def _guess(self) -> float | None:
        """The held-out loss of guessing by frequency."""
        found = unigram_baseline(self.store)
        return None if found is None else found.loss

    def expected_loss(self, tokens: int, steps: int) -> LossRange | None:
        """See `Job`. Known of masked language modelling from nothing only."""
        model, optim = self.settings.model, self.settings.optim
        if self.source_model is not None or type(self.settings.objective) is not MaskedLM or self._guess is None:
            return None
        band = LossRange.of(
            self._guess, count.num_parameters(model), model.vocab_size, tokens, steps, self.data_init_name
        )
        rate = default_lr(model.width)
        if band is None or not isinstance(optim, AdamW) or 1 / UNUSUAL_LR_RATIO < optim.lr / rate < UNUSUAL_LR_RATIO:
            return band
        how = f"{optim.lr / rate:.3g} times" if optim.lr > rate else f"1/{rate / optim.lr:.0f} of"
        hint = f"optim.lr = {optim.lr:g} is {how} what --size gives to this width ({rate:.2g}): try that."
        return dataclasses.replace(band, hint=hint)

    @property
    def epoch_tokens(self) -> int:
        """Tokens of the training split."""
        return self.store.train.tokens

    def score(self, tokens: int) -> dict[str, float]:
        """Held-out loss, accuracy and bits per byte with fixed masks; nothing where no text is held out."""
        split = self.store.heldout
        if "mlm" not in self.model.heads or not split.tokens:
            return {}
        batches = heldout_batches(split, self.vocabulary, self.settings.feed.max_length, tokens)
        mine = (batch for i, batch in enumerate(batches) if i % self.distributed.world == self.distributed.rank)
        summed = self.distributed.all_reduce if self.distributed.world > 1 else None
        training = self.objective.training
        self.objective.eval()
        try:
            return score_mlm(self.model, mine, split.tokens / max(split.bytes, 1), summed, self.objective.encode)
        except EmptyInput:
            return {}
        finally:
            self.objective.train(training)

    def save(self, folder: Path, metrics: Mapping[str, Any]) -> None:
        """The model with its tokenizer, and its head where that learnt to answer without the objective. How to embed
        with it stays as it was in the one it began with, unless something was learnt for that beside the encoder."""
        given = self.source_model
        pools = given is not None and "dense" in given.settings and "dense" not in given.modules()
        kept = {"dense": given.settings["dense"]} if given is not None and pools else {}
        artifact = None if given is None else given.artifact
        model = merge_and_unload(self.model, self.settings.adapt)
        save_model(
            folder,
            model if self.objective.keeps_mlm_head else without_heads(model),
            self.store.path / "tokenizer",
            settings={"recipe": recipe_of(self.settings, self.store, self.name), **kept},
            provenance=Provenance(
                {"tokens": Artifact.open(self.store.path)} | ({} if artifact is None else {"model": artifact})
            ),
            metrics=metrics,
            overwrite=True,
        )

    def state(self) -> dict[str, Any]:
        """See `Job`."""
        return {"feed": self.loader.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """See `Job`."""
        self.loader.load_state(state["feed"])

    def close(self) -> None:
        """End the feed's thread."""
        if isinstance(self.loader, Prefetch):
            self.loader.close()


def _begun(settings: PretrainSettings, store: TokenStore, given: LoadedModel | None) -> tuple[Model, Vocabulary]:
    """The model a run starts from, and what its corruption must know of the tokens."""
    seed = derive_seed(settings.train.seed, "weights")
    if given is None:
        return build_model(settings.model, seed), Vocabulary.of(store.tokenizer)
    check_same_vocabulary(given, store.tokenizer, str(store.path))
    return build_initialised(given, settings.model, seed), Vocabulary.of(given.tokenizer)


def recipe_of(settings: PretrainSettings, store: TokenStore, name: str = "") -> dict[str, Any]:
    """What a run folder keeps as recipe.json, from which `PretrainJob.rebuild` makes the job."""
    tokens = str(store.path.resolve())
    return {"job": f"{__name__}.{PretrainJob.__name__}", "recipe": name, "tokens": tokens, **encode(settings)}


def _settings(recipe: Mapping[str, Any]) -> PretrainSettings:
    table = {key: value for key, value in recipe.items() if key not in ("job", "recipe", "tokens", "branched_from")}
    return decode(PretrainSettings, table, "recipe.json")


def _share(packed: PackedBatch, chosen: npt.NDArray[np.bool_]) -> PackedBatch:
    """The `chosen` (B,) sequences, from short to long."""
    if chosen.all():
        return packed
    mine = np.flatnonzero(chosen)
    starts, lengths = packed.cu_seqlens[:-1][mine], packed.lengths[mine]
    cu_seqlens = np.zeros(len(mine) + 1, np.int32)
    np.cumsum(lengths, out=cu_seqlens[1:])
    rows = np.repeat(starts - cu_seqlens[:-1], lengths) + np.arange(int(cu_seqlens[-1]))
    return PackedBatch(packed.ids[rows], cu_seqlens)
