"""What an objective of embedding training is built for: the model, the settings that concern it, the processes.

Shapes: P texts, S sequences of a batch, K dimensions of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from encodery.embed.gradient_cache import run_in_chunks
from encodery.embed.losses import Loss
from encodery.embed.text_pool import TextPool, average_windows_torch
from encodery.encoders.settings import DenseSettings
from encodery.model.load import LoadedModel
from encodery.model.network import Model
from encodery.model.shape import Batch
from encodery.tokens.windows import batches_by_length
from encodery.train.distributed import DistributedContext


@dataclass(frozen=True, eq=False)
class ObjectiveContext:
    """What an objective is built for.

    Args:
        loaded: the model that training starts from, with its tokenizer and stored settings.
        model: its copy that is trained, on `device`.
        encoder: how texts become embeddings, in training and in use.
        loss: what is learned from the embeddings; None if the objective brings its own loss.
        batch_size: examples of a step, of all processes.
        micro_batch_tokens: tokens that go through the model at once.
        seed: of the run.
        gather: whether examples are compared with those of the other processes.
        random_span_mask: tokens replaced by one [MASK] in every text but the anchor; 0 for none.
        trains_whole_model: False where an adaptation chooses what of the model is trained.
    """

    loaded: LoadedModel
    model: Model
    device: torch.device
    distributed: DistributedContext
    encoder: DenseSettings
    loss: Loss | None
    batch_size: int
    micro_batch_tokens: int
    seed: int
    gather: bool = True
    random_span_mask: int = 0
    trains_whole_model: bool = True


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw the initial weights of new modules from `seed`, and leave torch's own generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def evaluation_mode(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Set the modules to evaluation, and back to training afterwards."""
    for module in modules:
        module.eval()
    yield
    for module in modules:
        module.train()


@torch.no_grad()
def encode_pool(
    encode: Callable[[Batch], Tensor], pool: TextPool, texts: np.ndarray, context: ObjectiveContext
) -> np.ndarray:
    """Return the vectors (P, K) of texts of a pool; `encode` gives those (S, K) of the sequences of a batch."""
    limit = context.micro_batch_tokens
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for some in batches_by_length(pool.lengths[texts], limit):
        batch, place = pool.batch(texts[some])
        vectors = run_in_chunks(encode, batch.to(context.device), limit).float().cpu()
        lengths = batch.cu_seqlens.diff()[place]
        whole = average_windows_torch(vectors[place], lengths, pool.window_owner(texts[some]), len(some))
        parts.append((some, whole.numpy()))
    encoded = np.zeros((len(texts), parts[0][1].shape[1]), np.float32)
    for some, part in parts:
        encoded[some] = part
    return encoded
