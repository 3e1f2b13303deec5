"""Pre-training: an encoder and an objective on the batches of a token store, as a job of the training loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from encodery.adapt import inject, merge_and_unload
from encodery.base.artifact import Artifact
from encodery.base.errors import SettingsError
from encodery.base.machine import derive_seed
from encodery.base.parts import name_of
from encodery.base.settings import encode
from encodery.corrupt import Vocabulary
from encodery.model import count
from encodery.model.digest import weights_digest
from encodery.model.load import LoadedModel, Provenance, load_model, save_model
from encodery.model.network import Model, build_model, without_heads
from encodery.model.shape import Batch
from encodery.objectives import Count, LossRange, LossTerm, ObjectiveModule, RunSize
from encodery.tokens.fit import balance
from encodery.tokens.loader import PackedBatch, PackedLoader
from encodery.tokens.prefetch import Prefetch
from encodery.tokens.shuffle import Integers
from encodery.tokens.store import TokenStore
from encodery.tokens.unigram_baseline import unigram_baseline
from encodery.train.data_init.random import RandomInit
from encodery.train.diagnostics import padded_attention_warning
from encodery.train.distributed import DistributedContext
from encodery.train.heldout import fed_batches, heldout_batches, score_objective
from encodery.train.init_from import build_initialised, check_same_vocabulary, new_heads
from encodery.train.job import Job, JobOutputs, MicroBatch, StepBatches
from encodery.train.lengths import attended_length
from encodery.train.memory_estimate import MemoryEstimate
from encodery.train.pretrain_settings import PREDICTED_FRACTION, PretrainSettings
from encodery.train.recipe import Recipe
from encodery.train.scaling_rules import default_lr
from encodery.train.settings import NEUTRAL_SETTINGS
from encodery.train.static_shapes import StaticShape

UNUSUAL_LR_RATIO = 3.0  # a rate this many times above or below the rule's is named if the loss is unusual
DATA_INIT_FELL_BACK = (
    "data_init.is={requested} fell back to {used}. Attention heads can be initialised with learned positions, or with "
    "rotary ones and model.attention.bias=true, if the token embeddings are as wide as the model; token embeddings "
    "need a text in which tokens have neighbours."
)
BREAK_EVEN_WIDTHS = 6  # model widths: the length at which attention costs as much as the matrix products of a block


class PretrainJob(Job):
    """Model and objective on the batches of a token store's training split."""

    settings_type: ClassVar[type] = PretrainSettings
    supports_fsdp: ClassVar[bool] = True
    supports_layerwise: ClassVar[bool] = True
    supports_static_shapes: ClassVar[bool] = True

    def __init__(
        self,
        settings: PretrainSettings,
        store: TokenStore,
        distributed: DistributedContext,
        device: torch.device,
        recipe_name: str = "",
    ) -> None:
        self.settings, self.store, self.distributed, self.device = settings, store, distributed, device
        self.recipe_name, seed = recipe_name, settings.train.seed
        self.source_model = None if settings.init_from is None else load_model(settings.init_from)
        self.model, self.vocabulary = _initial_model(settings, store, self.source_model)
        self.data_init_name = name_of(settings.data_init) if self.source_model is not None else self._init_from_data()
        inject(self.model, settings.adapt, seed)
        if self.source_model is not None:
            new_heads(self.model, self.source_model).requires_grad_(True)
        self.objective: ObjectiveModule = settings.objective.build(settings.model, self.vocabulary)
        self.objective.init_weights(torch.Generator().manual_seed(derive_seed(seed, "objective")))
        self.objective.attach(self.model)
        self.module: nn.Module = nn.ModuleDict({"model": self.model, "objective": self.objective})
        self.static_shape = self._static_shape()
        # On a CPU the thread would only take turns with the arithmetic.
        self.loader = Prefetch(self._loader()) if device.type != "cpu" else self._loader()

    @classmethod
    def from_recipe(
        cls, recipe: Recipe[PretrainSettings], distributed: DistributedContext, device: torch.device
    ) -> PretrainJob:
        """See `Job`. Raises `ArtifactError` if the tokens are missing."""
        return cls(recipe.settings, TokenStore.open(recipe.inputs["tokens"]), distributed, device, recipe.name)

    @classmethod
    def memory_estimate(cls, recipe: Recipe[PretrainSettings]) -> MemoryEstimate:
        """See `Job`."""
        return recipe.settings.memory_estimate()

    def _init_from_data(self) -> str:
        """Set the first weights from counts over the text, those of rank 0 on all ranks: counts may be rounded in
        another way elsewhere. Returns the name of the initialisation that was possible."""
        used = name_of(self.settings.data_init)
        if self.distributed.is_main:
            # Another tag would draw other first weights.
            generator = torch.Generator().manual_seed(derive_seed(self.settings.train.seed, "begin"))
            used = self.settings.data_init.apply(self.model, self.store.train, generator)
        if not isinstance(self.settings.data_init, RandomInit) and self.distributed.world > 1:
            with torch.no_grad():
                for p in self.model.parameters():
                    self.distributed.all_reduce(p if self.distributed.is_main else p.zero_())
        return used

    def _static_shape(self) -> StaticShape | None:
        """The shape of every micro-batch, if the settings ask for one."""
        if not self.settings.train.fixed_shapes:
            return None
        max_length, pad_id = self.settings.feed.max_length, self.store.special_tokens.pad_id
        return StaticShape.of(self.settings.train, self.settings.objective, max_length, self.distributed.world, pad_id)

    def _loader(self) -> PackedLoader:
        """The batches of all ranks, balanced over the micro-batches; or micro-batches of one shape, each for itself."""
        feed, ranks = self.settings.feed, (self.distributed.rank, self.distributed.world)
        seed = derive_seed(self.settings.train.seed, "feed")
        if self.static_shape is None:
            made_of = self.settings.objective.feed
            return PackedLoader(self.store.train, feed, seed, *ranks, balancer=self._micro_batch_ids, feed=made_of)
        max_sequences = self.static_shape.max_sequences
        return PackedLoader(self.store.train, feed, seed, *ranks, max_sequences=max_sequences)

    def identity(self) -> dict[str, Any]:
        """Every setting that changes the weights, and the fingerprint of the tokens."""
        table = {**encode(self.settings), "tokens": self.store.fingerprint}
        table["train"] = {k: v for k, v in table["train"].items() if k not in NEUTRAL_SETTINGS}
        if self.source_model is not None:
            table["init_from"] = weights_digest(self.source_model.model.state_dict())
            del table["data_init"]
        if self.static_shape is not None:
            table["train"]["static_shape"] = asdict(self.static_shape)
        return table

    # Batches

    def batches(self, step: int, progress: float, batch_tokens: int, max_length: int | None) -> StepBatches:
        """The batch of all ranks is balanced over their micro-batches; this rank reads and prepares its own."""
        longest = self.settings.feed.max_length
        longest = longest if max_length is None else min(max_length, longest)
        if self.static_shape is not None:
            return self._static_batches(self.static_shape, step, progress, batch_tokens, longest)
        packed = self.loader.next(batch_tokens, longest)
        micro_batches = []
        for index in range(
            self.distributed.rank, self._num_micro_batches(batch_tokens, longest), self.distributed.world
        ):
            own = _take_sequences(packed, packed.micro_batch_ids == index)
            micro_batches.append(MicroBatch(index, self._prepare(own, step, index, progress)))
        return StepBatches(micro_batches, packed.global_tokens, packed.global_tokens * self._flops(packed, progress))

    def _static_batches(
        self, shape: StaticShape, step: int, progress: float, batch_tokens: int, max_length: int
    ) -> StepBatches:
        """Each micro-batch is drawn for itself and padded to the static shape."""
        micro_batches, tokens, flops = list[MicroBatch](), 0, 0.0
        world = self.distributed.world
        for index in range(self.distributed.rank, shape.num_micro_batches(batch_tokens, world), world):
            packed = self.loader.next(shape.tokens, max_length)
            flops += packed.global_tokens * self._flops(packed, progress)
            tokens += packed.global_tokens
            batch = self._prepare(shape.pad_batch(packed), step, index, progress)
            micro_batches.append(MicroBatch(index, shape.pad_predictions(batch)))
        return StepBatches(micro_batches, tokens, flops)

    def _micro_batch_ids(self, sizes: Integers, batch_tokens: int, max_length: int) -> Integers:
        """The micro-batch (B,) of each sequence; `sizes` (B,) from long to short."""
        count = self._num_micro_batches(batch_tokens, max_length)
        return balance(sizes, count, BREAK_EVEN_WIDTHS * self.settings.model.width)

    def _num_micro_batches(self, batch_tokens: int, max_length: int) -> int:
        """The number of micro-batches of a step over all ranks: as few as possible, the same number for each rank."""
        world = self.distributed.world
        number = -(-batch_tokens // self.settings.train.micro_batch_tokens)
        number = -(-max(number, 1) // world) * world
        if number * max_length > batch_tokens and number > 1:
            raise SettingsError(
                f"A step of {batch_tokens} tokens cannot be divided into {number} micro-batches of sequences of up to "
                f"{max_length} tokens: raise train.batch_tokens or train.micro_batch_tokens."
            )
        return number

    def _prepare(self, packed: PackedBatch, step: int, index: int, progress: float) -> Batch:
        max_seqlen = packed.max_seqlen if self.static_shape is None else self.static_shape.max_seqlen
        ids, cu_seqlens = torch.from_numpy(packed.ids), torch.from_numpy(packed.cu_seqlens)
        if self.device.type == "cuda":
            ids, cu_seqlens = ids.pin_memory(), cu_seqlens.pin_memory()
        segment = None if packed.segment is None else torch.from_numpy(packed.segment)
        extra = {} if packed.relation is None else {"relation": torch.from_numpy(packed.relation)}
        batch = Batch(ids, cu_seqlens, max_seqlen, segment, extra)
        if self.device.type != "cpu":
            batch = batch.to(self.device, non_blocking=True)
        generator = torch.Generator(self.device)
        generator.manual_seed(derive_seed(self.settings.train.seed, "masks", step, index))
        return self.objective.prepare(batch, generator, progress)

    def _flops(self, packed: PackedBatch, progress: float) -> float:
        """Floating-point operations per token, at the lengths of this rank's sequences."""
        return self.objective.flops(self.model.settings, attended_length(packed.lengths), progress)

    # The model at work

    def counts(self, batch: Batch) -> dict[str, Count]:
        """See `Job`."""
        return self.objective.all_counts(self.model, batch)

    def terms(self, batch: Batch) -> dict[str, LossTerm]:
        """See `Job`."""
        terms: dict[str, LossTerm] = self.objective(self.model, batch)
        return terms

    @classmethod
    def with_model(cls, recipe: Recipe[PretrainSettings], model: str) -> Recipe[PretrainSettings]:
        """See `Job`."""
        return dataclasses.replace(recipe, settings=recipe.settings.continuing(model))

    def terms_and_outputs(self, batch: Batch) -> tuple[dict[str, LossTerm], JobOutputs]:
        """See `Job`. The predictions are those at the masked positions."""
        _, predicted = self._predicted(batch)
        output = self.objective.encode(self.model, batch)
        logits = self.model.mlm_logits(output.hidden[predicted])
        return self.objective.terms(self.model, output, batch), JobOutputs(output.hidden, logits, True)

    @classmethod
    def prediction_bytes(cls, recipe: Recipe[PretrainSettings]) -> int:
        """See `Job`. Those of the logits over the vocabulary at the masked positions."""
        settings = recipe.settings
        tokens = min(settings.train.micro_batch_tokens, round(settings.train.batch_tokens.maximum))
        return 4 * round(tokens * PREDICTED_FRACTION) * settings.model.vocab_size

    def num_predictions(self, batch: Batch) -> Count:
        """See `Job`."""
        return self._predicted(batch)[0]

    def _predicted(self, batch: Batch) -> tuple[int, Tensor]:
        """The number of masked tokens of a prepared batch and their positions (N,)."""
        saved = self.objective.keeps_heads and type(self.objective).forward is ObjectiveModule.forward
        if not saved or "masked_positions" not in batch.extra or "mlm" not in self.model.heads:
            raise SettingsError(
                f"objective = '{name_of(self.settings.objective)}': predicts no masked tokens with a head that is "
                "saved, so a teacher cannot be compared with it."
            )
        positions: Tensor = batch.extra["masked_positions"][batch.extra["labels"] >= 0]
        return len(positions), positions

    def layerwise_parts(self) -> tuple[Model, ObjectiveModule] | None:
        """See `Job`."""
        simple = self.objective.supports_layerwise and self.model.encoder.sequence_transform.is_identity
        return (self.model, self.objective) if simple else None

    def score(self, tokens: int) -> dict[str, float]:
        """The objective's metrics on held-out text under fixed masks; empty if no text is held out."""
        split = self.store.heldout
        if not split.tokens:
            return {}
        batches = heldout_batches(split, self.vocabulary, self.settings.feed.max_length, tokens)
        rate = split.tokens / max(split.bytes, 1)
        feed = self.settings.objective.feed
        fed = () if feed is None else fed_batches(split, self.settings.feed, feed, tokens)
        return score_objective(self.model, self.objective, batches, rate, self.distributed, fed)

    @property
    def num_parameters(self) -> int:
        """See `Job`: those of the model; what belongs to the objective is not saved."""
        return sum(p.numel() for p in self.model.parameters())

    # What the run reports

    def schedule_values(self, progress: float) -> dict[str, float]:
        """See `Job`."""
        return self.objective.rates(progress)

    def metrics(self) -> dict[str, float]:
        """`epoch`, with its fraction."""
        return {"epoch": self.loader.progress}

    @property
    def epoch_tokens(self) -> int:
        """Number of tokens in the training split."""
        return self.store.train.tokens

    def warnings(self, dtype: torch.dtype) -> list[str]:
        """Slow attention, and a data-dependent initialisation that was possible in part only."""
        feed = self.settings.feed
        sequences = max(1, min(self.settings.train.micro_batch_tokens, feed.batch_tokens) // feed.max_length)
        layout = Batch.from_sequences([[0] * feed.max_length] * sequences, device=self.device).layout
        slow = padded_attention_warning(self.settings.model, layout, self.device, dtype)
        requested, used = name_of(self.settings.data_init), self.data_init_name
        fell_back = None if used == requested else DATA_INIT_FELL_BACK.format(requested=requested, used=used)
        return [warning for warning in (slow, fell_back) if warning is not None]

    @cached_property
    def _unigram_loss(self) -> float | None:
        """The held-out loss of the unigram baseline."""
        baseline = unigram_baseline(self.store)
        return None if baseline is None else baseline.loss

    def expected_loss(self, tokens: int, steps: int) -> LossRange | None:
        """See `Job`. Known from random weights only, if the objective knows it."""
        model, optim = self.settings.model, self.settings.optim
        if self.source_model is not None or self._unigram_loss is None:
            return None
        run = RunSize(
            self._unigram_loss, count.num_parameters(model), model.vocab_size, tokens, steps, self.data_init_name
        )
        expected = self.settings.objective.expected_loss(run)
        rule = default_lr(model.width)
        usual = 1 / UNUSUAL_LR_RATIO < optim.lr / rule < UNUSUAL_LR_RATIO
        if expected is None or not optim.follows_lr_rule or usual:
            return expected
        ratio = f"{optim.lr / rule:.3g} times" if optim.lr > rule else f"1/{rule / optim.lr:.0f} of"
        hint = f"optim.lr = {optim.lr:g} is {ratio} what --size gives to this width ({rule:.2g}): try that."
        return dataclasses.replace(expected, hint=hint)

    # What is saved

    def save(self, folder: Path, metrics: Mapping[str, Any]) -> None:
        """The model with its tokenizer, and with its head if that was trained to answer without the objective. The way
        to embed texts is that of the source model, unless it has trained weights for it beside the encoder."""
        source = self.source_model
        pools = source is not None and "dense" in source.settings and "dense" not in source.modules()
        dense = {"dense": source.settings["dense"]} if source is not None and pools else {}
        artifact = None if source is None else source.artifact
        model = merge_and_unload(self.model, self.settings.adapt)
        recipe = pretrain_recipe(self.settings, self.store, self.recipe_name)
        save_model(
            folder,
            model if self.objective.keeps_heads else without_heads(model),
            self.store.path / "tokenizer",
            settings={"recipe": recipe.encode(), **dense},
            provenance=Provenance(
                {"tokens": Artifact.open(self.store.path)} | ({} if artifact is None else {"model": artifact})
            ),
            metrics=metrics,
            overwrite=True,
        )

    def state(self) -> dict[str, Any]:
        """See `Job`."""
        return {"loader": self.loader.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """See `Job`."""
        self.loader.load_state(state["loader"])

    def close(self) -> None:
        """Stop the thread that prefetches batches."""
        if isinstance(self.loader, Prefetch):
            self.loader.close()


def pretrain_recipe(settings: PretrainSettings, store: TokenStore, name: str = "") -> Recipe[PretrainSettings]:
    """The recipe of a pre-training on the tokens of a store; `name`: the recipe that the settings came from."""
    inputs = {"tokens": str(store.path.resolve())}
    return Recipe(job=PretrainJob.name(), inputs=inputs, settings=settings, name=name)


def _initial_model(
    settings: PretrainSettings, store: TokenStore, source: LoadedModel | None
) -> tuple[Model, Vocabulary]:
    """The model before data-dependent initialisation, and what the corruption must know of the vocabulary."""
    seed = derive_seed(settings.train.seed, "weights")
    if source is None:
        return build_model(settings.model, seed), Vocabulary.of(store.tokenizer)
    check_same_vocabulary(source, store.tokenizer, str(store.path))
    return build_initialised(source, settings.model, seed), Vocabulary.of(source.tokenizer)


def _take_sequences(packed: PackedBatch, taken: npt.NDArray[np.bool_]) -> PackedBatch:
    """The sequences for which `taken` (B,) is true, from short to long."""
    if taken.all():
        return packed
    own = np.flatnonzero(taken)
    starts, lengths = packed.cu_seqlens[:-1][own], packed.lengths[own]
    cu_seqlens = np.zeros(len(own) + 1, np.int32)
    np.cumsum(lengths, out=cu_seqlens[1:])
    positions = np.repeat(starts - cu_seqlens[:-1], lengths) + np.arange(int(cu_seqlens[-1]))
    segment = None if packed.segment is None else packed.segment[positions]
    relation = None if packed.relation is None else packed.relation[own]
    return PackedBatch(packed.ids[positions], cu_seqlens, segment=segment, relation=relation)
