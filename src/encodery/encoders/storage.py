"""What an embedding has learnt beside the encoder, in a model's artifact: pooling, finish steps, golden vectors.

Kept in modules/embed.safetensors: `pooling.<name>`, `finish.<step>.<name>`, and `golden`, the pooled vectors of the
model's golden sequences, which are computed again at load. Shapes: B golden sequences, H width of the model.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from encodery.base.errors import ArtifactError
from encodery.encoders.postprocess import PostProcess, State
from encodery.encoders.postprocessing import PostProcessing
from encodery.model import golden
from encodery.model.checkpoint import read_tensors
from encodery.model.load import GOLDEN, MODULES, LoadedModel
from encodery.model.shape import Batch

Pooled = Callable[[Batch], Tensor]
MODULE = "dense"


def module_tensors(pooling: nn.Module, finishing: PostProcessing) -> dict[str, Tensor]:
    """What is to be kept, golden vectors not yet among it."""
    found = {f"pooling.{name}": tensor for name, tensor in pooling.state_dict().items()}
    for number, state in enumerate(finishing.states):
        found |= {f"finish.{number}.{name}": torch.from_numpy(array.copy()) for name, array in state.items()}
    return found


def is_stored(loaded: LoadedModel) -> bool:
    """Whether the model has such a module."""
    return (loaded.path / MODULES / f"{MODULE}.safetensors").is_file()


def load_postprocessing(steps: tuple[PostProcess, ...], kept: dict[str, Tensor]) -> PostProcessing:
    """The finish steps with what they have learnt. Raises `ArtifactError` for what belongs to none of them."""
    states: list[State] = [{} for _ in steps]
    for name, tensor in kept.items():
        kind, _, rest = name.partition(".")
        number, _, key = rest.partition(".")
        if kind != "finish":
            continue
        if not number.isdigit() or int(number) >= len(states):
            raise ArtifactError(f"modules/{MODULE}.safetensors: '{name}' belongs to none of {len(steps)} finish steps.")
        states[int(number)][key] = tensor.numpy()
    return PostProcessing(steps, tuple(states))


def pooling_state(kept: dict[str, Tensor]) -> dict[str, Tensor]:
    """The pooling's weights."""
    return {name.removeprefix("pooling."): t for name, t in kept.items() if name.startswith("pooling.")}


def golden_vectors(pooled: Pooled, kept: dict[str, Tensor], device: torch.device) -> Tensor:
    """Pooled vectors (B, H), not yet finished, of the golden sequences (`model/golden.py`) whose ids `kept` holds."""
    cu_seqlens = kept["cu_seqlens"]
    batch = Batch(kept["ids"], cu_seqlens, int(cu_seqlens.diff().max()), kept.get("segment"))
    with torch.inference_mode():
        return pooled(batch.to(device)).cpu()


def verify_golden(loaded: LoadedModel, pooled: Pooled, kept: dict[str, Tensor], device: torch.device) -> None:
    """Raises `ArtifactError` where `pooled` no longer computes what it did when it was saved."""
    now = golden_vectors(pooled, read_tensors(loaded.path / GOLDEN), device)
    apart = golden.relative_difference({"golden": now}, kept)
    if not apart <= golden.TOLERANCE:
        raise ArtifactError(
            f"{loaded.path / MODULES / MODULE}.safetensors: the embedding no longer computes what it did when it was "
            f"saved (off by {apart:.1e}, {golden.TOLERANCE:.0e} allowed)."
        )
