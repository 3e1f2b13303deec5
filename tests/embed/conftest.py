"""Tokenizers of letters and of words, small random encoders, pairs that can be learned, and jobs over them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encodery.base.settings import decode, encode
from encodery.embed.defaults import default_loss
from encodery.embed.examples import EmbeddingExamples
from encodery.embed.job import EmbedJob
from encodery.embed.prepared import prepare_texts
from encodery.embed.reading import EmbedData
from encodery.embed.training import EmbedTraining
from encodery.encoders.dense import DenseEncoder
from encodery.encoders.settings import DenseSettings
from encodery.model.load import LoadedModel, load_model
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.tokens.tokenizer import Tokenizer
from encodery.train.distributed import DistributedContext
from encodery.train.execution.plain import Plain
from encodery.train.job import StepBatches
from encodery.train.optim.adamw import AdamW
from encodery.train.step import forward_backward

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(scope="session")
def tokenizer(word_tokenizer: Callable[..., Tokenizer]) -> Tokenizer:
    """One token per letter."""
    return word_tokenizer("abcdefghijklmnopqrstuvwxyz", at="letters")


@pytest.fixture(scope="session")
def embedder(tokenizer: Tokenizer) -> DenseEncoder:
    """Takes 10 letters and two special tokens."""
    settings = ModelSettings(width=32, depth=2, heads=2, vocab_size=64, max_length=12)
    return DenseEncoder(build_model(settings, seed=0), tokenizer, DenseSettings(prompts={"ask": "q "}), device="cpu")


@pytest.fixture(scope="session")
def words(word_tokenizer: Callable[..., Tokenizer]) -> Tokenizer:
    """One token per word: a0 … a39, b0 … b39 and the letters a, b, c."""
    return word_tokenizer([*(f"{side}{i}" for side in "ab" for i in range(40)), "a", "b", "c"], at="spaces")


@pytest.fixture(scope="session")
def loaded(words: Tokenizer, tmp_path_factory: pytest.TempPathFactory, small_model: Callable[..., Path]) -> LoadedModel:
    """A small random encoder of those words, saved and loaded."""
    return load_model(small_model(tmp_path_factory.mktemp("words"), words, max_length=16))


@pytest.fixture(scope="session")
def pairs() -> Callable[[int, int], EmbeddingExamples]:
    """`pairs(count, seed)`: three words of a, and the words of b with the same numbers in another order."""

    def make(count: int, seed: int) -> EmbeddingExamples:
        rng = np.random.default_rng(seed)
        drawn = [rng.choice(40, 3, replace=False) for _ in range(count)]
        left = [" ".join(f"a{i}" for i in numbers) for numbers in drawn]
        right = [" ".join(f"b{i}" for i in rng.permutation(numbers)) for numbers in drawn]
        return EmbeddingExamples((left, right))

    return make


@pytest.fixture(scope="session")
def make_job(loaded: LoadedModel) -> Callable[..., EmbedJob]:
    """`make_job(data, dev, model=…, **settings)`: a job in fp32 on the CPU, with batches of 16 and the loss that the
    data has by default; `data` may be `EmbedData`."""

    def make(
        data: EmbeddingExamples | EmbedData,
        dev: EmbeddingExamples | None = None,
        model: LoadedModel = loaded,
        **overrides: Any,
    ) -> EmbedJob:
        read = data if isinstance(data, EmbedData) else EmbedData(data, dev)
        train = {"precision": "fp32", "micro_batch_tokens": 4096, **overrides.pop("train", {})}
        table = {"batch": 16, "train": train, **overrides}
        if decode(EmbedTraining, table).objective.uses_loss and "loss" not in table:
            table["loss"] = encode(default_loss(read.train))
        settings = decode(EmbedTraining, table)
        return EmbedJob(settings, prepare_texts(settings, model, read), DistributedContext(), torch.device("cpu"))

    return make


def run_backward(job: EmbedJob, batches: StepBatches, step: int = 0) -> Any:
    """Forward and backward of a step in fp32 on one process; the terms of each micro-batch."""
    alone = DistributedContext()
    running = Plain().build(job, alone, torch.device("cpu"))
    return forward_backward(running, batches, alone, "fp32", 0, step)


@pytest.fixture(scope="session")
def backward() -> Callable[..., Any]:
    """`backward(job, batches)`: see `run_backward`."""
    return run_backward


@pytest.fixture(scope="session")
def train_steps() -> Callable[..., list[dict[str, float]]]:
    """`train_steps(job, steps, lr)`: trains, and gives the mean of every term of each step, and their sum as `loss`."""

    def train(job: EmbedJob, steps: int, lr: float = 3e-3, progress: float = 0.0) -> list[dict[str, float]]:
        optimizer = AdamW(lr=lr).build(job.module)
        curve = []
        for step in range(steps):
            optimizer.zero_grad()
            terms = run_backward(job, job.batches(step, progress, 0, None), step)
            optimizer.step()
            means = {}
            for name in terms[0]:
                total = sum(float(part[name].total) for part in terms)
                means[name] = total / sum(float(part[name].count) for part in terms)
            means["loss"] = sum(means[name] * term.weight for name, term in terms[0].items() if term.weight)
            curve.append(means)
        return curve

    return train
