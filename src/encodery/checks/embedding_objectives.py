"""Checks of the objectives of embedding training, each with a small model on a few texts.

Shapes: B examples.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import tokenizers
import torch

from encodery.base.settings import decode, encode
from encodery.embed.defaults import default_loss
from encodery.embed.examples import EmbeddingExamples
from encodery.embed.job import EmbedJob
from encodery.embed.objectives import EmbeddingObjective
from encodery.embed.prepared import prepare_texts
from encodery.embed.reading import EmbedData
from encodery.embed.training import EmbedTraining
from encodery.model.load import LoadedModel, load_model, save_model
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.objectives import normalised_loss
from encodery.tokens.tokenizer import Tokenizer
from encodery.train.distributed import DistributedContext

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TOKENS = ["red", "cat", "dog", "sun", "one", "two", "moon", "."]
SENTENCES = [f"{a} {b} {c}." for a in TOKENS[:4] for b in TOKENS[3:7] for c in TOKENS[:3]]
B = 8


def example_model(folder: Path) -> LoadedModel:
    """Return a random model of width 32 whose tokens are words."""
    pieces = {piece: number for number, piece in enumerate([*SPECIAL, *TOKENS])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(pieces, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    backend.add_special_tokens(SPECIAL)
    tokenizer = Tokenizer(backend)
    tokenizer.set_template()
    tokenizer.save(folder / "tokenizer")
    settings = ModelSettings(width=32, depth=2, heads=2, vocab_size=tokenizer.vocab_size, max_length=48)
    save_model(folder / "model", build_model(settings, seed=0), folder / "tokenizer")
    return load_model(folder / "model")


def example_job(part: EmbeddingObjective, folder: Path) -> EmbedJob:
    """Return a job of the part over pairs, or over raw documents of several sentences if it uses no loss."""
    data = EmbeddingExamples((SENTENCES[:24], SENTENCES[24:]))
    if not part.uses_loss:
        documents = [" ".join(f"{text[0].upper()}{text[1:]}" for text in SENTENCES[i : i + 8]) for i in range(0, 40, 2)]
        data = EmbeddingExamples((documents,))
    settings = decode(
        EmbedTraining,
        {
            "objective": encode(part),
            "batch": B,
            "train": {"precision": "fp32"},
            **({"loss": encode(default_loss(data))} if part.uses_loss else {}),
        },
    )
    prepared = prepare_texts(settings, example_model(folder), EmbedData(data))
    return EmbedJob(settings, prepared, DistributedContext(), torch.device("cpu"))


def check_settings_round_trip(part: EmbeddingObjective) -> None:
    """The objective is what its settings decode to."""
    assert decode(EmbeddingObjective, encode(part)) == part


def check_collating_repeats(part: EmbeddingObjective) -> None:
    """Equal examples and seeds give equal batches."""
    with tempfile.TemporaryDirectory() as folder:
        job = example_job(part, Path(folder))
        start = job.state()
        first = job.batches(0, 0.5, 0, None).micro_batches[0].batch
        job.load_state(start)
        second = job.batches(0, 0.5, 0, None).micro_batches[0].batch
        assert torch.equal(first.ids, second.ids)
        for name, tensor in first.extra.items():
            assert torch.equal(tensor, second.extra[name]), f"extra['{name}'] differs"


def check_terms_agree_with_counts(part: EmbeddingObjective) -> None:
    """The learned terms have the counts that are known before the model runs."""
    with tempfile.TemporaryDirectory() as folder:
        job = example_job(part, Path(folder))
        batch = job.batches(0, 0.5, 0, None).micro_batches[0].batch
        counts, terms = job.counts(batch), job.terms(batch)
        learned = {name: int(term.count) for name, term in terms.items() if term.weight}
        assert learned == {name: int(count) for name, count in counts.items()}


def check_every_trained_weight_gets_a_gradient(part: EmbeddingObjective) -> None:
    """The encoder, and every module of the objective that is trained, get finite gradients."""
    with tempfile.TemporaryDirectory() as folder:
        job = example_job(part, Path(folder))
        batch = job.batches(0, 0.5, 0, None).micro_batches[0].batch
        normalised_loss(job.terms(batch), job.counts(batch)).backward()  # type: ignore[no-untyped-call]
        for name, module in (("encoder", job.model.encoder), *job.objective.modules.items()):
            gradients = [p.grad for p in module.parameters() if p.grad is not None]
            assert bool(gradients) is any(p.requires_grad for p in module.parameters()), f"{name} gets no gradient"
            assert all(torch.isfinite(gradient).all() for gradient in gradients), f"a gradient of {name} is not finite"


def check_the_saved_encoder_loads(part: EmbeddingObjective) -> None:
    """The saved model opens as a text encoder, which verifies its golden values, and encodes a text."""
    from encodery.encoders.loading import load_encoder

    with tempfile.TemporaryDirectory() as folder:
        job = example_job(part, Path(folder))
        job.save(Path(folder) / "run" / "model", {})
        encoder = load_encoder(load_model(Path(folder) / "run" / "model"), "cpu")
        assert len(encoder.encode(["red cat."])) == 1
