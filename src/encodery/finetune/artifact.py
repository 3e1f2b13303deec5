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
from encodery.finetune import imported
from encodery.finetune.heads.token_matching import TEXT_INDEX
from encodery.finetune.tasks import Task, TaskModule
from encodery.model import golden
from encodery.model.checkpoint import read_tensors
from encodery.model.load import GOLDEN, MODULES, LoadedModel, Provenance, save_model
from encodery.model.network import Model, model_of_state
from encodery.model.shape import Batch
from encodery.tokens.windows import Truncate, parse_truncate

MODULE, GOLDEN_OUTPUTS, WEIGHT_PREFIX = "task", "golden", "weights."


@dataclass(frozen=True, eq=False)
class FineTuned:
    """A task with its module in evaluation mode, what it learnt from rows, and how it reads them."""

    task: Task
    module: TaskModule
    metadata: Mapping[str, Any]
    calibration: Mapping[str, float]
    max_length: int
    truncate: Truncate


def save(
    folder: Path,
    model: Model,
    head: FineTuned,
    source: LoadedModel,
    recipe: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> Artifact:
    """Write the artifact: `model`, made of `loaded` by `recipe`."""
    state = {name: tensor.detach().to("cpu", torch.float32) for name, tensor in model.state_dict().items()}
    done = model_of_state(model.settings, state)
    told, kept = artifact_contents(done, head)
    return save_model(
        folder,
        done,
        source.tokenizer_path,
        settings={"recipe": dict(recipe), **told},
        modules={MODULE: kept},
        provenance=Provenance.of(source),
        metrics=metrics,
        overwrite=True,
    )


def artifact_contents(model: Model, head: FineTuned) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a task leaves in the artifact of `model`, which is on the CPU in evaluation: settings of the manifest, and
    the tensors of the module `NAME`."""
    module = head.task.build(model.settings.shape, head.metadata)
    module.load_state_dict({name: tensor.cpu() for name, tensor in head.module.state_dict().items()})
    kept = {f"{WEIGHT_PREFIX}{name}": tensor for name, tensor in module.state_dict().items()}
    kept[GOLDEN_OUTPUTS] = golden_outputs(model, module, golden.golden_outputs(model))
    told = {
        "task": encode(head.task),
        "known": dict(head.metadata),
        "tuned": dict(head.calibration),
        "reads": {"max_length": head.max_length, "truncate": head.truncate},
        "labels": list(head.metadata.get("labels", [])),
    }
    return told, kept


def imported_head(loaded: LoadedModel) -> FineTuned | None:
    """The task of a stock folder with a head that is known here; None of any other folder.

    Raises as `stock.head` does.
    """
    found = imported.read_head(loaded) if loaded.artifact is None else None
    if found is None:
        return None
    return FineTuned(found.task, found.module, found.metadata, found.calibration, found.max_length, found.truncate)


def load_head(loaded: LoadedModel) -> FineTuned:
    """The task of a loaded model, on the CPU.

    Raises `ArtifactError` for a model without one, with weights that do not fit, or that computes otherwise now.
    """
    given = imported_head(loaded)
    if given is not None:
        return given
    if loaded.artifact is None or "task" not in loaded.settings:
        raise ArtifactError(
            f"{loaded.path}: has no task that is known here; `encodery finetune TASK DATA --model {loaded.path}` gives "
            "it one. Of stock folders those have one that classify texts or tokens, answer questions or choose."
        )
    where = f"{loaded.path / MODULES / MODULE}.safetensors"
    task = decode(Task, loaded.settings["task"], f"{loaded.path}: task")
    known, reads = loaded.settings["known"], loaded.settings["reads"]
    module = task.build(loaded.model.settings.shape, known)
    kept = loaded.module_state(MODULE)
    try:
        module.load_state_dict(
            {name.removeprefix(WEIGHT_PREFIX): t for name, t in kept.items() if name != GOLDEN_OUTPUTS}
        )
    except RuntimeError as error:
        raise ArtifactError(f"{where}: its weights are not those of the task: {error}") from error
    now = golden_outputs(loaded.model, module, read_tensors(loaded.path / GOLDEN))
    apart = golden.relative_difference({GOLDEN_OUTPUTS: now}, kept)
    if not apart <= golden.TOLERANCE:
        raise ArtifactError(
            f"{where}: the task no longer computes what it did when it was saved (off by {apart:.1e}, "
            f"{golden.TOLERANCE:.0e} allowed)."
        )
    return FineTuned(
        task, module, known, loaded.settings["tuned"], reads["max_length"], parse_truncate(reads["truncate"])
    )


def module_state_for(loaded: LoadedModel, model: Model) -> dict[str, Tensor]:
    """The task's module of `loaded`, to be saved with other weights below it: its own, and golden outputs anew.

    Raises `ArtifactError` as `opened` does.
    """
    module = load_head(loaded).module
    kept = {f"{WEIGHT_PREFIX}{name}": tensor for name, tensor in module.state_dict().items()}
    return {**kept, GOLDEN_OUTPUTS: golden_outputs(model, module, golden.golden_outputs(model))}


@torch.inference_mode()
def golden_outputs(model: Model, module: TaskModule, golden_batch: Mapping[str, Tensor]) -> Tensor:
    """What the module gives for the model's golden sequences, each an example of its own and its halves two texts; the
    module is on the CPU and in evaluation afterwards, as `model` is."""
    cu_seqlens = golden_batch["cu_seqlens"]
    lengths = cu_seqlens.diff().tolist()
    halves = torch.cat([torch.arange(length) * 2 // length + 1 for length in lengths])
    extra = {"sizes": torch.ones(len(lengths), dtype=torch.int64), TEXT_INDEX: halves}
    batch = Batch(golden_batch["ids"], cu_seqlens, int(cu_seqlens.diff().max()), golden_batch.get("segment"), extra)
    found: Tensor = module.cpu().eval()(model(batch), batch)
    return found.clone()
