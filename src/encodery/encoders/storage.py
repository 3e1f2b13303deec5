"""The trained tensors of an encoder in a model's artifact: pooling, post-processing and golden values.

modules/<encoder>.safetensors, such as modules/dense.safetensors, holds `pooling.<name>`, `postprocess.<step>.<name>`,
and `golden`: what the encoder computes for the model's golden sequences, which is computed again whenever the model is
loaded.
Shapes: B golden sequences, H width of the model.
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

Compute = Callable[[Batch], Tensor]
"""From a packed batch to the tensor whose golden values are stored."""
MODULE = "dense"
POSTPROCESS = "postprocess"


def module_tensors(pooling: nn.Module, postprocessing: PostProcessing) -> dict[str, Tensor]:
    """The tensors to store, without the golden vectors."""
    tensors = {f"pooling.{name}": tensor for name, tensor in pooling.state_dict().items()}
    return tensors | postprocess_tensors(postprocessing)


def postprocess_tensors(postprocessing: PostProcessing) -> dict[str, Tensor]:
    """The tensors of fitted post-processing steps."""
    tensors: dict[str, Tensor] = {}
    for number, state in enumerate(postprocessing.states):
        for name, array in state.items():
            tensors[f"{POSTPROCESS}.{number}.{name}"] = torch.from_numpy(array.copy())
    return tensors


def is_stored(loaded: LoadedModel) -> bool:
    """Whether the model has stored tensors of dense embeddings."""
    return (loaded.path / MODULES / f"{MODULE}.safetensors").is_file()


def load_postprocessing(
    steps: tuple[PostProcess, ...], tensors: dict[str, Tensor], module: str = MODULE
) -> PostProcessing:
    """The post-processing with its fitted states, from the tensors of a module. Raises `ArtifactError` for a tensor
    that belongs to no step."""
    states: list[State] = [{} for _ in steps]
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        number, _, key = rest.partition(".")
        if part != POSTPROCESS:
            continue
        if not number.isdigit() or int(number) >= len(states):
            raise ArtifactError(
                f"modules/{module}.safetensors: '{name}' belongs to none of the model's {len(states)} post-processing "
                "steps."
            )
        states[int(number)][key] = tensor.numpy()
    return PostProcessing(steps, tuple(states))


def pooling_state(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The pooling's weights."""
    return {name.removeprefix("pooling."): t for name, t in tensors.items() if name.startswith("pooling.")}


def golden_vectors(compute: Compute, tensors: dict[str, Tensor], device: torch.device) -> Tensor:
    """What `compute` gives for the golden sequences (`model/golden.py`) whose ids `tensors` holds, on the CPU."""
    cu_seqlens = tensors["cu_seqlens"]
    batch = Batch(tensors["ids"], cu_seqlens, int(cu_seqlens.diff().max()), tensors.get("segment"))
    with torch.inference_mode():
        return compute(batch.to(device)).cpu()


def verify_golden(
    loaded: LoadedModel, compute: Compute, tensors: dict[str, Tensor], device: torch.device, module: str = MODULE
) -> None:
    """Raises `ArtifactError` if `compute` does not give the `golden` values among the tensors of a module any more."""
    computed = golden_vectors(compute, read_tensors(loaded.path / GOLDEN), device)
    difference = golden.relative_difference({"golden": computed}, tensors)
    if not difference <= golden.TOLERANCE:
        raise ArtifactError(
            f"{loaded.path / MODULES / module}.safetensors: the embedding no longer computes the vectors that were "
            f"saved with it (relative difference {difference:.1e}, {golden.TOLERANCE:.0e} allowed)."
        )
