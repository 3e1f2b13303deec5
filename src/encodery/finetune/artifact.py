"""A fine-tuned model on disk: the model's artifact with the task, what it knows, its weights, and golden outputs.

A head never comes back random: its weights are in modules/task.safetensors, and what it gave for the model's golden
sequences is computed again at load. Shapes: T tokens of the golden sequences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from encodery.base.artifact import Artifact
from encodery.base.errors import ArtifactError
from encodery.base.settings import decode, encode
from encodery.finetune import stock
from encodery.finetune.tasks import Task, TaskModule
from encodery.finetune.tasks._matching import SIDE
from encodery.model import golden
from encodery.model.checkpoint import read_tensors
from encodery.model.foreign import build
from encodery.model.load import GOLDEN, MODULES, Loaded, save_model
from encodery.model.network import Model
from encodery.model.shape import Batch
from encodery.tokens.windows import Truncate, checked

NAME, OUTPUTS, WEIGHTS = "task", "golden", "weights."


@dataclass(frozen=True, eq=False)
class Tuned:
    """A task with its module in evaluation mode, what it learnt from rows, and how it reads them."""

    task: Task
    module: TaskModule
    known: Mapping[str, Any]
    tuned: Mapping[str, float]
    max_length: int
    truncate: Truncate


def save(
    folder: Path,
    model: Model,
    found: Tuned,
    loaded: Loaded,
    recipe: Mapping[str, Any],
    figures: Mapping[str, Any],
) -> Artifact:
    """Write the artifact: `model`, made of `loaded` by `recipe`."""
    state = {name: tensor.detach().to("cpu", torch.float32) for name, tensor in model.state_dict().items()}
    done = build(model.settings, state)
    told, kept = contents(done, found)
    return save_model(
        folder,
        done,
        loaded.tokenizer_path,
        settings={"recipe": dict(recipe), **told},
        modules={NAME: kept},
        parents={} if loaded.artifact is None else {"model": Artifact.open(loaded.artifact.path)},
        figures=figures,
        overwrite=True,
    )


def contents(model: Model, found: Tuned) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a task leaves in the artifact of `model`, which is on the CPU in evaluation: settings of the manifest, and
    the tensors of the module `NAME`."""
    module = found.task.build(model.settings.shape, found.known)
    module.load_state_dict({name: tensor.cpu() for name, tensor in found.module.state_dict().items()})
    kept = {f"{WEIGHTS}{name}": tensor for name, tensor in module.state_dict().items()}
    kept[OUTPUTS] = outputs_of(model, module, golden.make(model))
    told = {
        "task": encode(found.task),
        "known": dict(found.known),
        "tuned": dict(found.tuned),
        "reads": {"max_length": found.max_length, "truncate": found.truncate},
        "labels": list(found.known.get("labels", [])),
    }
    return told, kept


def foreign(loaded: Loaded) -> Tuned | None:
    """The task of a stock folder with a head that is known here; None of any other folder.

    Raises as `stock.head` does.
    """
    found = stock.head(loaded) if loaded.artifact is None else None
    if found is None:
        return None
    return Tuned(found.task, found.module, found.known, found.tuned, found.max_length, found.truncate)


def opened(loaded: Loaded) -> Tuned:
    """The task of a loaded model, on the CPU.

    Raises `ArtifactError` for a model without one, with weights that do not fit, or that computes otherwise now.
    """
    given = foreign(loaded)
    if given is not None:
        return given
    if loaded.artifact is None or "task" not in loaded.settings:
        raise ArtifactError(
            f"{loaded.path}: has no task that is known here; `encodery finetune TASK DATA --model {loaded.path}` gives "
            "it one. Of stock folders those have one that classify texts or tokens, answer questions or choose."
        )
    where = f"{loaded.path / MODULES / NAME}.safetensors"
    task = decode(Task, loaded.settings["task"], f"{loaded.path}: task")
    known, reads = loaded.settings["known"], loaded.settings["reads"]
    module = task.build(loaded.model.settings.shape, known)
    kept = loaded.module_state(NAME)
    try:
        module.load_state_dict({name.removeprefix(WEIGHTS): t for name, t in kept.items() if name != OUTPUTS})
    except RuntimeError as error:
        raise ArtifactError(f"{where}: its weights are not those of the task: {error}") from error
    now = outputs_of(loaded.model, module, read_tensors(loaded.path / GOLDEN))
    apart = golden.apart({OUTPUTS: now}, kept)
    if not apart <= golden.TOLERANCE:
        raise ArtifactError(
            f"{where}: the task no longer computes what it did when it was saved (off by {apart:.1e}, "
            f"{golden.TOLERANCE:.0e} allowed)."
        )
    return Tuned(task, module, known, loaded.settings["tuned"], reads["max_length"], checked(reads["truncate"]))


def carried(loaded: Loaded, model: Model) -> dict[str, Tensor]:
    """The task's module of `loaded`, to be saved with other weights below it: its own, and golden outputs anew.

    Raises `ArtifactError` as `opened` does.
    """
    module = opened(loaded).module
    kept = {f"{WEIGHTS}{name}": tensor for name, tensor in module.state_dict().items()}
    return {**kept, OUTPUTS: outputs_of(model, module, golden.make(model))}


@torch.inference_mode()
def outputs_of(model: Model, module: TaskModule, kept: Mapping[str, Tensor]) -> Tensor:
    """What the module gives for the model's golden sequences, each an example of its own and its halves two texts; the
    module is on the CPU and in evaluation afterwards, as `model` is."""
    cu_seqlens = kept["cu_seqlens"]
    lengths = cu_seqlens.diff().tolist()
    halves = torch.cat([torch.arange(length) * 2 // length + 1 for length in lengths])
    extra = {"sizes": torch.ones(len(lengths), dtype=torch.int64), SIDE: halves}
    batch = Batch(kept["ids"], cu_seqlens, int(cu_seqlens.diff().max()), kept.get("segment"), extra)
    found: Tensor = module.cpu().eval()(model(batch), batch)
    return found.clone()
