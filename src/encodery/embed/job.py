"""Training of embeddings: a model, a pooling and a loss over examples of several texts, as a job of the one loop.

All texts of a step stand in one packed batch. Where the loss compares the examples of a step with each other, they go
through the model in pieces of `train.micro_batch_tokens` that meet in the loss (`cached.py`), so a batch may be as large as
one likes; and examples meet those of the other ranks there. The best weights on dev rows are kept, and test rows are
judged once, with these. Shapes: E examples, C columns, B examples of a batch, T tokens, K width.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from encodery.adapt import inject, merge_and_unload
from encodery.base.artifact import atomic_write
from encodery.base.errors import SettingsError
from encodery.base.machine import derive_seed
from encodery.base.parts import name_of
from encodery.base.settings import encode
from encodery.embed.data import EmbeddingExamples, prepare_for_loss
from encodery.embed.gradient_cache import run_in_chunks
from encodery.embed.heldout_metrics import METRIC_NAMES, EncodedTexts, EncodedVectors, compute_metrics, has_metrics
from encodery.embed.losses import Loss, LossInputs
from encodery.embed.noise import mask_span
from encodery.embed.text_pool import TextPool, average_windows_torch
from encodery.embed.trainable_postprocess import TrainablePostProcess
from encodery.embed.training import EmbedTraining
from encodery.encoders import storage
from encodery.encoders.dense import DenseEncoder, unfitted_postprocessing
from encodery.encoders.postprocess import PostProcess
from encodery.encoders.postprocessing import PostProcessing
from encodery.encoders.settings import DenseSettings
from encodery.model import count, golden
from encodery.model.load import LoadedModel, Provenance, load_model, save_model
from encodery.model.network import Model, copy_for_training, model_of_state
from encodery.model.shape import Batch, Output
from encodery.objectives import Count, LossTerm
from encodery.tokens.shuffle import Integers
from encodery.tokens.windows import batches_by_length
from encodery.train.distributed import DistributedContext
from encodery.train.examples import ExampleJob
from encodery.train.job import StepBatches
from encodery.train.lengths import attended_length, sample_tokens
from encodery.train.loop import FINAL_EVAL_FACTOR
from encodery.train.memory_estimate import MemoryEstimate
from encodery.train.recipe import Recipe
from encodery.train.settings import NEUTRAL_SETTINGS

SAMPLE = 20_000  # Texts from which the finish steps learn.
DETAILS = "details.json"
LATER = 1e-9  # By how much a score counts for more after each epoch: of equal ones the last is the best.


class EmbedJob(ExampleJob):
    """`train`, `dev` and `test` are read data (`reading.py`), `notes` what was found in them, `decides` whether the
    best weights on dev rows are kept; the loss is given by then."""

    settings_type: ClassVar[type] = EmbedTraining

    def __init__(
        self,
        settings: EmbedTraining,
        loaded: LoadedModel,
        train: EmbeddingExamples,
        dev: EmbeddingExamples | None,
        team: DistributedContext,
        device: torch.device,
        recipe: Recipe[EmbedTraining] | None = None,
        test: EmbeddingExamples | None = None,
        notes: Sequence[str] = (),
        decides: bool = True,
    ) -> None:
        self.settings, self.loaded, self.device = settings, loaded, device
        self.recipe = {} if recipe is None else recipe.encode()
        self.notes, self.select_on_dev, self.final = list(notes), decides, dict[str, Any]()
        self.in_batch = self.loss is not None and self.loss.in_batch
        self.model = copy_for_training(loaded.model, settings.dropout)
        self.model.heads.requires_grad_(False)
        inject(self.model, settings.adapt, settings.train.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(settings.train.seed, "pooling"))
            self.pooling = self.head()
        self.module: nn.Module = nn.ModuleDict({"model": self.model, "pooling": self.pooling}).to(device)
        self.progress, self.layer_seed = 0.0, 0
        train = self.arranged(train)
        self.fingerprint = train.fingerprint
        self.examples, self.numbers = self._read(train)
        self.target = None if train.target is None else torch.from_numpy(train.target)
        self.dev = None if dev is None or dev.raw else self._held_out(dev)
        self.test = None if test is None or not has_metrics(test) else self._held_out(test)
        self.guide = self._guide(self.examples.texts) if self.loss is not None and self.loss.needs_guide else None
        self.flops_of = functools.cache(
            functools.partial(count.flops_per_token, dataclasses.replace(self.model.settings))
        )
        batch = min(settings.batch_size_for(len(train)), len(train))
        self.set_examples(self.examples.lengths[self.numbers].sum(1), batch, settings.train, team)
        self._check()
        self.through = self._through()
        if self.through is not None:
            self.module.add_module("through", self.through.to(device))

    @property
    def loss(self) -> Loss | None:
        """What is learned from vectors; None where the job learns from something else."""
        return self.settings.loss

    def arranged(self, train: EmbeddingExamples) -> EmbeddingExamples:
        """The training examples as the loss wants them."""
        assert self.loss is not None
        return prepare_for_loss(train, self.loss)

    def layers(self, seed: int) -> tuple[int, ...]:
        """The layers that the loss asks for."""
        return () if self.loss is None else self.loss.sample_layers(self.model.settings.depth, seed)

    @classmethod
    def memory_estimate(cls, recipe: Recipe[EmbedTraining]) -> MemoryEstimate:
        """See `Job`. Texts are taken to be about as long as the recipe's steps say."""
        settings, model = recipe.settings, load_model(recipe.inputs["model"], verify=False).model.settings
        step = round(settings.train.batch_tokens.maximum)
        length = min(longest_of(settings.encoder, model.max_length) + 2, max(step // (settings.batch or step), 1))
        activations = count.activation_bytes(model, min(settings.train.micro_batch_tokens, step), length, 0.0)
        copies = len(settings.hooks) + 1  # the best weights are held as well
        return MemoryEstimate.of(
            count.num_parameters(model), activations, copies, settings.train.keep, settings.train.optimizer_offload
        )

    @classmethod
    def from_recipe(
        cls, recipe: Recipe[EmbedTraining], distributed: DistributedContext, device: torch.device
    ) -> EmbedJob:
        """See `Job`. Raises `ArtifactError` where model or data are gone."""
        from encodery.embed.reading import read_data

        settings = recipe.settings
        loaded = load_model(recipe.inputs["model"])
        found = read_data(Path(recipe.inputs["data"]), settings, loaded)
        told = found.test, found.notes, found.select_on_dev
        return cls(settings, loaded, found.train, found.dev, distributed, device, recipe, *told)

    def head(self) -> nn.Module:
        """What makes vectors of hidden states; with the weights that the model has for it, else with new ones."""
        pooling = self.settings.encoder.pooling
        module = pooling.build(self.model.settings.shape)
        if storage.is_stored(self.loaded) and self.loaded.settings["dense"]["pooling"] == encode(pooling):
            module.load_state_dict(storage.pooling_state(self.loaded.module_state(storage.MODULE)))
        return module

    # What is learned from

    def batches(self, step: int, progress: float, batch_tokens: int, max_length: int | None) -> StepBatches:
        """See `ExampleJob`."""
        self.progress, self.layer_seed = progress, derive_seed(self.train.seed, "layers", step)
        return super().batches(step, progress, batch_tokens, max_length)

    def collate(self, indices: Integers, seed: int) -> Batch:
        """Texts by column, all anchors first; `texts` (C, B) in extra says which they are."""
        texts = self.numbers[indices].T
        draw = np.random.default_rng(seed)

        def hidden(place: int, ids: np.ndarray) -> np.ndarray:
            second = place >= len(indices)
            return mask_span(ids, self.mask_id, self.settings.random_span_mask, draw) if second else ids

        batch, place = self.examples.batch(texts.reshape(-1), hidden if self.settings.random_span_mask else None)
        extra = {"place": place, "texts": torch.from_numpy(self.examples.text_ids[texts])}
        if self.examples.has_windows:
            extra["owner"] = self.examples.window_owner(texts.reshape(-1))
        if self.target is not None:
            extra["target"] = self.target[indices]
        if self.guide is not None:
            extra["guide"] = torch.from_numpy(self.guide[texts])
        extra["progress"] = torch.tensor(self.progress)
        extra["layers"] = torch.tensor(self.layers(self.layer_seed), dtype=torch.int64)
        whole = dataclasses.replace(batch, extra=extra)
        return whole if self.device.type == "cpu" else whole.to(self.device, non_blocking=True)

    def counts(self, batch: Batch) -> Mapping[str, Count]:
        """See `Job`."""
        assert self.loss is not None
        (columns, examples), target = batch.extra["texts"].shape, batch.extra.get("target")
        if not self.gathers:
            return self.loss.counts(columns, examples, target)
        told = None if target is None else self.distributed.all_gather(target)
        found = self.loss.counts(columns, self.batch_size, told)
        return {name: count / self.distributed.world for name, count in found.items()}

    def terms(self, batch: Batch) -> Mapping[str, LossTerm]:
        """See `Job`. The loss is computed in fp32 whatever the model's format."""
        assert self.loss is not None
        columns, examples = batch.extra["texts"].shape
        layers = batch.extra["layers"].tolist()
        found = run_in_chunks(functools.partial(self._vectors, layers=layers), batch, self.train.micro_batch_tokens)
        found = self._whole(found, batch, columns * examples).view(columns, examples, len(layers) + 1, -1)
        with torch.autocast(self.device.type, enabled=False):
            found = found.float() if self.through is None else self.through(found.float())
            return self.loss.terms(self._given(self._of_all(found, 1), batch))

    def _whole(self, found: Tensor, batch: Batch, texts: int) -> Tensor:
        """Vectors (texts, …) in the order of the texts, from those (W, …) of the batch's sequences."""
        place = batch.extra["place"]
        if "owner" not in batch.extra:
            return found[place]
        return average_windows_torch(found[place], batch.cu_seqlens.diff()[place], batch.extra["owner"], texts)

    @property
    def gathers(self) -> bool:
        """Whether the examples of a step are compared with those of other ranks."""
        return self.in_batch and self.settings.gather_across_devices and self.distributed.world > 1

    def _of_all(self, tensor: Tensor, examples: int = 0) -> Tensor:
        """The same for the examples, along the axis `examples`, of all ranks that they are compared with."""
        if not self.gathers:
            return tensor
        return self.distributed.all_gather(tensor.transpose(0, examples)).transpose(0, examples)

    def _given(self, found: Tensor, batch: Batch) -> LossInputs:
        """Vectors (C, B, 1 + layers, K) as the loss sees them."""
        target, guide, texts = self._told(batch)
        last, *earlier = (LossInputs(tuple(found[:, :, i]), target, texts, guide) for i in range(found.shape[2]))
        return dataclasses.replace(last, layers=tuple(earlier), progress=float(batch.extra["progress"]))

    def _told(self, batch: Batch) -> tuple[Tensor | None, LossInputs | None, Tensor]:
        """Targets, the guide's vectors and the texts (C, B) of the examples."""
        extra = batch.extra
        target = None if "target" not in extra else self._of_all(extra["target"])
        guide = None if "guide" not in extra else LossInputs(tuple(self._of_all(extra["guide"].float(), 1)))
        return target, guide, self._of_all(extra["texts"], 1)

    def _vectors(self, batch: Batch, layers: list[int]) -> Tensor:
        """(B, 1 + layers, K): the sequences' vectors of the last layer, then of earlier ones."""
        keep = self.pooling.keep_layers or bool(layers)
        output = self.model.encoder(batch, keep_layers=keep)
        found = [self.pooling(output, batch)]
        for layer in layers:
            hidden = self.model.encoder.final_norm(output.layers[layer])
            found.append(self.pooling(Output(hidden), batch))
        return torch.stack(found, dim=1)

    def flops(self, batch: Batch) -> float:
        """Twice the forward pass more where pieces are run again."""
        mean = attended_length(batch.cu_seqlens.diff().cpu())
        again = 4 / 3 if batch.tokens > self.train.micro_batch_tokens else 1.0
        return batch.tokens * self.flops_of(mean, 0.0) * again

    # Held-out figures

    def score(self, tokens: int) -> dict[str, float]:
        """Retrieval for pairs and tuples, rank correlation for scored pairs, nearest neighbours for classes; of as many
        dev rows as hold so many tokens, the same ones each time."""
        return {} if self.dev is None else self._judged(*self._some(tokens))

    @functools.lru_cache(maxsize=2)  # noqa: B019, the cache lives as long as the run
    def _some(self, tokens: int) -> tuple[EmbeddingExamples, TextPool, Integers]:
        """Dev rows that hold about so many tokens; whatever the seed, so that runs of several can be compared."""
        assert self.dev is not None
        data, pool, numbers = self.dev
        some = sample_tokens(pool.lengths[numbers].sum(1), tokens, derive_seed(0, "dev"))
        if len(some) == len(numbers):
            return self.dev
        return data.take(some), pool, numbers[some]

    def _judged(self, data: EmbeddingExamples, pool: TextPool, numbers: Integers) -> dict[str, float]:
        """The figures of examples as numbers (E, C) of a pool's texts."""
        texts, places = np.unique(numbers, return_inverse=True)
        return compute_metrics(self.compared(pool, texts), places.reshape(numbers.shape), data)

    def selection_metric(self, score: Mapping[str, float]) -> float | None:
        """See `Job`. Of equal scores the later one counts: few held-out rows are soon all found, and those who found
        them first have learnt the least."""
        found = next((score[name] for name in METRIC_NAMES if name in score and name != "mrr"), None)
        return None if found is None or not self.select_on_dev else found + LATER * self.position / len(self.lengths)

    def metrics(self) -> dict[str, float]:
        """`epoch`, and at the end what was found by then."""
        return {**super().metrics(), **self.final}

    def compared(self, pool: TextPool, texts: np.ndarray) -> EncodedTexts:
        """Texts (P,) of a pool, encoded to be compared as they will be in use."""
        plain = unfitted_postprocessing(_plain(self.settings.encoder.postprocess))
        return EncodedVectors(
            (plain if self.through is None else self.through.postprocessing()).apply(self._encoded(pool, texts))
        )

    @torch.no_grad()
    def _encoded(self, pool: TextPool, texts: np.ndarray) -> np.ndarray:
        """Vectors (P, H) of texts of a pool, before the finish."""
        self.module.eval()
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for some in batches_by_length(pool.lengths[texts], self.train.micro_batch_tokens):
            batch, place = pool.batch(texts[some])
            run = functools.partial(self._vectors, layers=[])
            vectors = run_in_chunks(run, batch.to(self.device), self.train.micro_batch_tokens)[:, 0].float().cpu()
            lengths = batch.cu_seqlens.diff()[place]
            found.append(
                (
                    some,
                    average_windows_torch(vectors[place], lengths, pool.window_owner(texts[some]), len(some)).numpy(),
                )
            )
        self.module.train()
        pooled = np.zeros((len(texts), found[0][1].shape[1]), np.float32)
        for some, rows in found:
            pooled[some] = rows
        return pooled

    # What is left of it

    def save(self, folder: Path, metrics: Mapping[str, Any]) -> None:
        """The model, and then the figures of the test rows: what they may cost can take no model away."""
        self.write(folder, metrics)
        drawn = dict[str, dict[str, Any]]()
        for name, held in (
            ("dev", self.dev and self._some(self.train.eval_tokens * FINAL_EVAL_FACTOR)),
            ("test", self.test),
        ):
            if held is not None and (found := self._judged(*held)):
                drawn[name] = {"rows": len(held[0]), "metrics": found, "errors": []}
        if "test" in drawn:
            self.final |= {f"test_{name}": value for name, value in drawn["test"]["metrics"].items()}
        if metrics.get("tokens") and "tokens_per_s" in metrics:
            self.final["samples_per_s"] = metrics["tokens_per_s"] / metrics["tokens"] * self.position
        text = json.dumps({"notes": self.notes, **drawn}, indent=1, ensure_ascii=False)
        atomic_write(folder.parent / DETAILS, text + "\n")

    def write(self, folder: Path, figures: Mapping[str, Any]) -> None:
        """The model with its embedding settings, what pooling and finish have learnt, and golden vectors."""
        model = self.result()
        pooling = self.settings.encoder.pooling.build(model.settings.shape)
        pooling.load_state_dict({name: tensor.cpu() for name, tensor in self.pooling.state_dict().items()})
        finishing = self._finishing()
        embedder = DenseEncoder(model, self.loaded.tokenizer, self.settings.encoder, finishing, "cpu", pooling)
        kept = storage.module_tensors(pooling, finishing)
        kept["golden"] = storage.golden_vectors(embedder.pool_batch, golden.golden_outputs(model), embedder.device)
        save_model(
            folder,
            model,
            self.loaded.tokenizer_path,
            settings={"recipe": self.recipe, "dense": encode(self.settings.encoder)},
            modules={storage.MODULE: kept},
            provenance=Provenance.of(self.loaded, keep_origin=True),
            metrics=figures,
            overwrite=True,
        )

    def result(self) -> Model:
        """The trained model on the CPU, what was adapted folded in, with the dropout it had before."""
        done = merge_and_unload(self.model, self.settings.adapt)
        state = {name: tensor.detach().to("cpu", torch.float32) for name, tensor in done.state_dict().items()}
        return model_of_state(done.settings, state)

    def _finishing(self) -> PostProcessing:
        """The finish steps, fitted to the training texts where they have something to learn and have not yet."""
        if self.through is not None:
            return self.through.postprocessing()
        steps = self.settings.encoder.postprocess
        return (
            unfitted_postprocessing(steps)
            if len(_plain(steps)) == len(steps)
            else PostProcessing.fitted(steps, self._sampled())
        )

    def _through(self) -> TrainablePostProcess | None:
        """The finish steps fitted to the training texts before the first step, where the recipe wants them so."""
        if not self.settings.whiten_before_training:
            return None
        steps = self.settings.encoder.postprocess
        if len(_plain(steps)) == len(steps):
            raise SettingsError("whiten_before_training: none of the finish steps learns; whiten and centre do.")
        return TrainablePostProcess(steps, self._sampled())

    def _sampled(self) -> np.ndarray:
        """Vectors (P, H) of training texts, before the finish."""
        draw = np.random.default_rng(derive_seed(self.train.seed, "finish"))
        return self._encoded(self.examples, np.sort(draw.permutation(len(self.examples.texts))[:SAMPLE]))

    def identity(self) -> dict[str, Any]:
        """Every setting on which the weights depend, and the fingerprints of data and model."""
        table: dict[str, Any] = {**encode(self.settings), "data": self.fingerprint}
        artifact = self.loaded.artifact
        table["model"] = str(self.loaded.path) if artifact is None else artifact.manifest.fingerprint
        table["train"] = {k: v for k, v in table["train"].items() if k not in NEUTRAL_SETTINGS}
        if not self.settings.whiten_before_training:
            del table["whiten_before_training"]  # runs from before there was such a thing go on
        if self.settings.heldout is None:
            del table["heldout"]
        return table

    # Setting up

    @functools.cached_property
    def mask_id(self) -> int:
        """Id of [MASK]."""
        return self.loaded.tokenizer.mask_id

    def _read(self, data: EmbeddingExamples) -> tuple[TextPool, Integers]:
        longest = longest_of(self.settings.encoder, self.model.settings.max_length)
        prompts = prompts_of(self.settings, len(data.columns))
        return TextPool.from_columns(data.columns, prompts, self.loaded.tokenizer, longest, self.settings.truncate)

    def _held_out(self, data: EmbeddingExamples) -> tuple[EmbeddingExamples, TextPool, Integers]:
        return (data, *self._read(data))

    def _guide(self, texts: list[str]) -> np.ndarray:
        """(P, G) float16 the guide's vectors of every text, once for all epochs."""
        if self.settings.guide is None:
            raise SettingsError("The loss asks a guide: name a model with guide=MODEL.")
        embedder = DenseEncoder.from_loaded(load_model(self.settings.guide), self.device)
        chunk = self.settings.truncate == "chunk"
        return embedder.encode(texts, truncate="chunk" if chunk else "right").vectors.astype(np.float16)

    def _check(self) -> None:
        if self.layers(0) and self.pooling.keep_layers:
            raise SettingsError(
                f"The loss learns from single layers, pooling = '{name_of(self.settings.encoder.pooling)}' joins several."
            )


def longest_of(embed: DenseSettings, most: int) -> int:
    """Tokens of a text that are read, special ones not counted, by a model that takes `most`."""
    return min(embed.max_length or most, most) - 2


def prompts_of(settings: EmbedTraining, columns: int) -> list[str]:
    """The text that goes before those of each column."""
    return [settings.encoder.prompt(name) for name in prompt_names(settings, columns)]


def prompt_names(settings: EmbedTraining, columns: int) -> list[str | None]:
    """The name of each column's prompt, None for none."""
    known = settings.encoder.prompts
    names = {side: settings.roles.get(side, side if side in known else None) for side in ("query", "document")}
    return [names["document" if column else "query"] for column in range(columns)]


def _plain(steps: tuple[PostProcess, ...]) -> tuple[PostProcess, ...]:
    return tuple(step for step in steps if type(step).fit is PostProcess.fit)
