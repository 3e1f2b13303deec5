"""Checks of execution strategies, each on a pre-training job of a small model on made-up documents."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from torch import Tensor

from encodery.base.artifact import create_artifact
from encodery.base.settings import decode, encode
from encodery.tokens.shards import TokenShardWriter, id_dtype, index_split
from encodery.tokens.store import SpecialTokens, TokenStore
from encodery.tokens.tokenizer import Tokenizer
from encodery.train.distributed import DistributedContext
from encodery.train.execution import Execution
from encodery.train.execution.plain import Plain
from encodery.train.pretrain import PretrainJob
from encodery.train.pretrain_settings import PretrainSettings
from encodery.train.settings import TrainSettings
from encodery.train.step import forward_backward

CPU, SINGLE = torch.device("cpu"), DistributedContext()
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCAB_SIZE = 64
SETTINGS: dict[str, Any] = {
    "model": {"width": 16, "depth": 2, "heads": 2, "intermediate_size": 32, "max_length": 32},
    "feed": {"max_length": 32},
    "objective": {"is": "mlm", "corruption": {"is": "token", "fixed_predictions": True}},
    "train": {"batch_tokens": 512, "micro_batch_tokens": 128, "static_shapes": True},
}


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


@functools.cache
def example_store() -> TokenStore:
    """Return a token store of 60 training documents and 12 held-out ones of random tokens."""
    pieces = {piece: n for n, piece in enumerate([*SPECIALS, *(f"w{n}" for n in range(VOCAB_SIZE - len(SPECIALS)))])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(pieces, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.add_special_tokens(list(SPECIALS))
    tokenizer, folder = Tokenizer(backend), Path(_folder().name) / "tokens"
    specials = SpecialTokens(pad_id=0, unk_id=1, cls_id=2, sep_id=3, mask_id=4, vocab_size=tokenizer.vocab_size)
    dtype, draw = id_dtype(VOCAB_SIZE), np.random.default_rng(0)
    with create_artifact(folder, "tokens", {"dtype": dtype, "special_tokens": asdict(specials)}) as draft:
        for split, count in (("train", 60), ("heldout", 12)):
            documents = [draw.integers(5, VOCAB_SIZE, n).astype(np.uint32) for n in draw.integers(6, 90, count)]
            writer = TokenShardWriter(draft.path / split, 0, dtype, specials.unk_id)
            shard = writer.write([(ids, 4 * len(ids)) for ids in documents], "made up")
            draft.metrics[split] = index_split(draft.path / split, [shard])
        tokenizer.save(draft.path / "tokenizer")
    return TokenStore.open(folder)


def example_settings() -> PretrainSettings:
    """Return the settings of `example_job`."""
    return decode(PretrainSettings, SETTINGS).with_vocab_size(example_store().special_tokens.vocab_size)


def example_job() -> PretrainJob:
    """Return a job of masked language modelling with steps of four micro-batches; equal ones in every call."""
    return PretrainJob(example_settings(), example_store(), SINGLE, CPU)


def gradients(part: Execution) -> tuple[list[float], dict[str, Tensor]]:
    """Return the loss terms and gradients of one step of `example_job`."""
    job = example_job()
    execution = part.build(job, SINGLE, CPU)
    assert execution.job is job, "the strategy does not hold its job"
    terms = forward_backward(execution, job.batches(0, 0.5, 512, None), SINGLE, "fp32", 0, 0)
    grads = {name: p.grad.clone() for name, p in job.module.named_parameters() if p.grad is not None}
    with execution.whole_weights(), execution.full_parameters():
        assert all(p.isfinite().all() for p in job.module.parameters()), "a weight is not finite"
    assert all(isinstance(warning, str) for warning in execution.warnings())
    return [float(term.total) for one in terms for term in one.values()], grads


def check_settings_round_trip(part: Execution) -> None:
    """The part is what its settings decode to."""
    assert decode(Execution, encode(part)) == part


def check_losses_and_gradients(part: Execution) -> None:
    """The loss terms and gradients of a step are those of plain execution, up to the order of additions."""
    expected, expected_grads = gradients(Plain())
    losses, grads = gradients(part)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert grads.keys() == expected_grads.keys(), "other parameters have a gradient"
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected_grads[name], rtol=1e-4, atol=1e-6, msg=name)


def check_default_settings_do_not_select_it(part: Execution) -> None:
    """The default settings of `train` select no strategy."""
    assert not part.selected(TrainSettings())


def check_incompatibilities(part: Execution) -> None:
    """Each reason why a job cannot run so is a sentence that starts with the setting of `train`."""
    for reason in part.incompatibilities(PretrainJob, example_settings(), CPU):
        assert reason.startswith("train."), f"'{reason}' does not name a setting of train"
