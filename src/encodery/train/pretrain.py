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

from encodery.adapt import begin, finished
from encodery.base.artifact import Artifact
from encodery.base.errors import EmptyInput, SettingsError
from encodery.base.machine import derive_seed
from encodery.base.parts import name_of
from encodery.base.settings import decode, encode
from encodery.corrupt import Vocabulary
from encodery.model import count
from encodery.model.load import Loaded, load_model, save_model
from encodery.model.network import Model, bare, build_model
from encodery.model.shape import Batch
from encodery.objectives import Count, ObjectiveModule, Term
from encodery.objectives.mlm import MLM
from encodery.tokens.feed import Feed, Packed
from encodery.tokens.fit import deal
from encodery.tokens.frequency import unigram
from encodery.tokens.prefetch import Prefetch
from encodery.tokens.shuffle import Integers
from encodery.tokens.store import TokenStore
from encodery.train.band import Band
from encodery.train.begin.random import Random
from encodery.train.distributed import Team
from encodery.train.doctor import slow_attention
from encodery.train.heldout import questions, score_mlm
from encodery.train.inherit import check_vocabulary, fingerprint, fresh, grown
from encodery.train.job import Job, Micro, Work
from encodery.train.ladder import usual_rate
from encodery.train.layered import Layered
from encodery.train.needs import Needs
from encodery.train.optim.adamw import AdamW
from encodery.train.pretrain_settings import PretrainSettings
from encodery.train.settings import HARMLESS
from encodery.train.static import Compiled, Frame

ODD = 3.0  # times the rule's rate, or a part of it, from which on a rate is named where the loss is unusual
SLOWER = (
    "train.static=compiled is slower than train.static=off on a CPU: within the graph attention compares all tokens of "
    "a micro-batch with each other."
)
LESSER = (
    "begin.is={wanted} came to no more than begin.is={began}: heads are aimed by learned positions, or by rotary ones "
    "with model.attention.bias=true, where the word table is as wide as the model; words need text with neighbours."
)
ATTENTION = 6  # widths: the length at which attention costs as much as a block's products


class PretrainJob(Job):
    """Model and objective on the batches of a token store's training split."""

    shards = True
    fixes = True

    def __init__(
        self, settings: PretrainSettings, store: TokenStore, team: Team, device: torch.device, name: str = ""
    ) -> None:
        self.settings, self.store, self.team, self.device, self.name = settings, store, team, device, name
        seed = settings.train.seed
        self.given = None if settings.init_from is None else load_model(settings.init_from)
        self.model, self.vocabulary = _begun(settings, store, self.given)
        self.began: str = name_of(self.settings.begin)
        if self.given is None:
            self._begin()
        begin(self.model, settings.adapt, seed)
        if self.given is not None:
            fresh(self.model, self.given).requires_grad_(True)
        self.objective: ObjectiveModule = settings.objective.build(settings.model, self.vocabulary)
        self.objective.start(torch.Generator().manual_seed(derive_seed(seed, "objective")))
        self.module: nn.Module = nn.ModuleDict({"model": self.model, "objective": self.objective})
        if settings.train.layered:
            self.layered = Layered(self.model, self.objective, device)
            self.layered.place(self.module)
        else:
            self.module.to(device)
        feed = Feed(store.train, settings.feed, derive_seed(seed, "feed"), team.rank, team.world, dealer=self._seats)
        self.frame: Frame | None = None
        if settings.train.static != "off":
            of = settings.train, settings.objective, settings.feed.max_length, team.world, store.specials.pad_id
            self.frame = Frame.of(*of)
            feed = Feed(
                store.train, settings.feed, derive_seed(seed, "feed"), team.rank, team.world, True, self.frame.most
            )
        if self.frame is not None and settings.train.static in ("compiled", "replayed"):
            self.replays = settings.train.static == "replayed"
            if self.replays and device.type != "cuda":
                raise SettingsError("train.static = 'replayed': needs a CUDA device, whose kernels it records.")
            self.around = Compiled(self.model, self.objective, self.frame, self.replays)
        # On a CPU the thread would only take turns with the mathematics.
        self.feed = Prefetch(feed) if device.type != "cpu" else feed

    def _begin(self) -> None:
        """The first weights, of rank 0 on all ranks: what is counted may be rounded otherwise elsewhere."""
        seed = derive_seed(self.settings.train.seed, "begin")
        if self.team.leads:
            generator = torch.Generator().manual_seed(seed)
            self.began = self.settings.begin.fill(self.model, self.store.train, generator)
        if not isinstance(self.settings.begin, Random) and self.team.world > 1:
            with torch.no_grad():
                for p in self.model.parameters():
                    self.team.sum(p if self.team.leads else p.zero_())

    @classmethod
    def rebuild(cls, recipe: Mapping[str, Any], team: Team, device: torch.device) -> PretrainJob:
        """See `Job`. Raises `ArtifactError` where the tokens are gone."""
        return cls(_settings(recipe), TokenStore.open(recipe["tokens"]), team, device, recipe.get("recipe", ""))

    @classmethod
    def needs(cls, recipe: Mapping[str, Any]) -> Needs:
        """See `Job`."""
        return _settings(recipe).needs()

    def identity(self) -> dict[str, Any]:
        """Every setting on which the weights depend, and the fingerprint of the tokens."""
        table = {**encode(self.settings), "tokens": self.store.fingerprint}
        table["train"] = {k: v for k, v in table["train"].items() if k not in HARMLESS}
        if self.given is not None:
            table["init_from"] = fingerprint(self.given)
        # What is not used leaves no trace, so that runs from before there was such a setting can be resumed.
        if self.given is not None or isinstance(self.settings.begin, Random):
            del table["begin"]
        for part, name in ((table, "init_from"), (table, "adapt"), (table["model"], "inserts")):
            if not part[name]:
                del part[name]
        if self.frame is not None:
            table["train"]["frame"] = asdict(self.frame)
        return table

    def batches(self, step: int, progress: float, batch_tokens: int, length: int | None) -> Work:
        """The global batch is dealt to the micro-batches of all ranks; this rank reads and prepares its own."""
        longest = self.settings.feed.max_length if length is None else min(length, self.settings.feed.max_length)
        if self.frame is not None:
            return self._framed(self.frame, step, progress, batch_tokens, longest)
        packed = self.feed.next(batch_tokens, longest)
        micros = [
            Micro(number, self._prepare(_share(packed, packed.seats == number), step, number, progress))
            for number in range(self.team.rank, self._parts(batch_tokens, longest), self.team.world)
        ]
        return Work(micros, packed.planned, packed.planned * self._flops(packed, progress))

    def _seats(self, sizes: Integers, batch_tokens: int, longest: int) -> Integers:
        """The micro-batch of each sequence, from long to short."""
        return deal(sizes, self._parts(batch_tokens, longest), ATTENTION * self.settings.model.width)

    def _framed(self, frame: Frame, step: int, progress: float, batch_tokens: int, longest: int) -> Work:
        """Each micro-batch is drawn for itself and fills a frame."""
        micros, tokens, flops = list[Micro](), 0, 0.0
        for number in range(self.team.rank, frame.parts(batch_tokens, self.team.world), self.team.world):
            packed = self.feed.next(frame.tokens, longest)
            flops += packed.planned * self._flops(packed, progress)
            tokens += packed.planned
            micros.append(Micro(number, frame.slotted(self._prepare(frame.filled(packed), step, number, progress))))
        return Work(micros, tokens, flops)

    def _flops(self, packed: Packed, progress: float) -> float:
        """Of a token, at the lengths of this rank's share."""
        lengths = packed.lengths.astype("int64")
        mean = round(float((lengths * lengths).sum()) / max(packed.tokens, 1) / 8) * 8
        return self.objective.flops(self.settings.model, mean, progress)

    def _parts(self, batch_tokens: int, longest: int) -> int:
        """How many micro-batches a step has over all ranks: as few as fit, the same number for each rank."""
        world = self.team.world
        parts = -(-batch_tokens // self.settings.train.micro_tokens)
        parts = -(-max(parts, 1) // world) * world
        if parts * longest > batch_tokens and parts > 1:
            raise SettingsError(
                f"A step of {batch_tokens} tokens cannot be dealt to {parts} micro-batches of sequences up to "
                f"{longest}: raise train.batch_tokens or train.micro_tokens."
            )
        return parts

    def _prepare(self, packed: Packed, step: int, number: int, progress: float) -> Batch:
        longest = packed.max_seqlen if self.frame is None else self.frame.longest
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

    def terms(self, batch: Batch) -> dict[str, Term]:
        """See `Job`."""
        found: dict[str, Term] = self.objective(self.model, batch)
        return found

    def rates(self, progress: float) -> dict[str, float]:
        """See `Job`."""
        return self.objective.rates(progress)

    def figures(self) -> dict[str, float]:
        """`epoch`, with its fraction."""
        return {"epoch": self.feed.progress}

    def remarks(self, dtype: torch.dtype) -> list[str]:
        """Slow attention, a compiled step where that is slower, and a beginning of which only a part was possible."""
        feed = self.settings.feed
        count = max(1, min(self.settings.train.micro_tokens, feed.batch_tokens) // feed.max_length)
        layout = Batch.from_sequences([[0] * feed.max_length] * count, device=self.device).layout
        found = slow_attention(self.settings.model, layout, self.device, dtype)
        compiled = isinstance(self.around, Compiled) and self.device.type == "cpu"
        wanted = name_of(self.settings.begin)
        lesser = None if self.began == wanted else LESSER.format(wanted=wanted, began=self.began)
        return [said for said in (found, SLOWER if compiled else None, lesser) if said is not None]

    @cached_property
    def _guess(self) -> float | None:
        """The held-out loss of guessing by frequency."""
        found = unigram(self.store)
        return None if found is None else found.loss

    def usual(self, tokens: int, steps: int) -> Band | None:
        """See `Job`. Known of masked language modelling from nothing only."""
        model, optim = self.settings.model, self.settings.optim
        if self.given is not None or type(self.settings.objective) is not MLM or self._guess is None:
            return None
        band = Band.of(self._guess, count.parameters(model), model.vocab, tokens, steps, self.began)
        rate = usual_rate(model.width)
        if band is None or not isinstance(optim, AdamW) or 1 / ODD < optim.lr / rate < ODD:
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
        batches = questions(split, self.vocabulary, self.settings.feed.max_length, tokens)
        mine = (batch for i, batch in enumerate(batches) if i % self.team.world == self.team.rank)
        summed = self.team.sum if self.team.world > 1 else None
        training = self.objective.training
        self.objective.eval()
        try:
            return score_mlm(self.model, mine, split.tokens / max(split.bytes, 1), summed, self.objective.read)
        except EmptyInput:
            return {}
        finally:
            self.objective.train(training)

    def save(self, folder: Path, figures: Mapping[str, Any]) -> None:
        """The model with its tokenizer, and its head where that learnt to answer without the objective. How to embed
        with it stays as it was in the one it began with, unless something was learnt for that beside the encoder."""
        given = self.given
        pools = given is not None and "embed" in given.settings and "embed" not in given.modules()
        kept = {"embed": given.settings["embed"]} if given is not None and pools else {}
        artifact = None if given is None else given.artifact
        model = finished(self.model, self.settings.adapt)
        save_model(
            folder,
            model if self.objective.plain else bare(model),
            self.store.path / "tokenizer",
            settings={"recipe": recipe_of(self.settings, self.store, self.name), **kept},
            parents={"tokens": Artifact.open(self.store.path)} | ({} if artifact is None else {"model": artifact}),
            figures=figures,
            overwrite=True,
        )

    def state(self) -> dict[str, Any]:
        """See `Job`."""
        return {"feed": self.feed.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """See `Job`."""
        self.feed.load_state(state["feed"])

    def close(self) -> None:
        """End the feed's thread."""
        if isinstance(self.feed, Prefetch):
            self.feed.close()


def _begun(settings: PretrainSettings, store: TokenStore, given: Loaded | None) -> tuple[Model, Vocabulary]:
    """The model a run starts from, and what its corruption must know of the tokens."""
    seed = derive_seed(settings.train.seed, "weights")
    if given is None:
        return build_model(settings.model, seed), Vocabulary.of(store.tokenizer)
    check_vocabulary(given, store.tokenizer, str(store.path))
    return grown(given, settings.model, seed), Vocabulary.of(given.tokenizer)


def recipe_of(settings: PretrainSettings, store: TokenStore, name: str = "") -> dict[str, Any]:
    """What a run folder keeps as recipe.json, from which `PretrainJob.rebuild` makes the job."""
    tokens = str(store.path.resolve())
    return {"job": f"{__name__}.{PretrainJob.__name__}", "recipe": name, "tokens": tokens, **encode(settings)}


def _settings(recipe: Mapping[str, Any]) -> PretrainSettings:
    table = {key: value for key, value in recipe.items() if key not in ("job", "recipe", "tokens", "branched_from")}
    return decode(PretrainSettings, table, "recipe.json")


def _share(packed: Packed, chosen: npt.NDArray[np.bool_]) -> Packed:
    """The `chosen` (B,) sequences, from short to long."""
    if chosen.all():
        return packed
    mine = np.flatnonzero(chosen)
    starts, lengths = packed.cu_seqlens[:-1][mine], packed.lengths[mine]
    cu_seqlens = np.zeros(len(mine) + 1, np.int32)
    np.cumsum(lengths, out=cu_seqlens[1:])
    rows = np.repeat(starts - cu_seqlens[:-1], lengths) + np.arange(int(cu_seqlens[-1]))
    return Packed(packed.ids[rows], cu_seqlens)
