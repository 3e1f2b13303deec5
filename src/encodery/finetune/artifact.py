"""A fine-tuned model on disk: the model's artifact with the task, its metadata and weights, and golden outputs.

The weights of the head are in modules/task.safetensors, with its outputs for the model's golden sequences, which are
computed again and compared when the model is loaded. Shapes: T tokens of the golden sequences.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from encodery.base.artifact import Artifact
from encodery.base.errors import ArtifactError
from encodery.base.settings import decode, encode
from encodery.finetune import imported
from encodery.finetune.fine_tuned import FineTuned
from encodery.finetune.heads.token_matching import TEXT_INDEX
from encodery.finetune.task_module import TaskModule
from encodery.finetune.task_types import TaskMetadata
from encodery.finetune.tasks import Task
from encodery.model import golden
from encodery.model.checkpoint import read_tensors
from encodery.model.load import GOLDEN, MODULES, LoadedModel, Provenance, save_model
from encodery.model.network import Model, model_of_state
from encodery.model.shape import Batch
from encodery.tokens.windows import parse_truncate

MODULE, GOLDEN_OUTPUTS, WEIGHT_PREFIX = "task", "golden", "weights."


def save(
    folder: Path,
    model: Model,
    head: FineTuned,
    source: LoadedModel,
    recipe: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> Artifact:
    """Write the artifact of `model` and `head`, which were fine-tuned from `source` with `recipe`."""
    state = {name: tensor.detach().to("cpu", torch.float32) for name, tensor in model.state_dict().items()}
    plain = model_of_state(model.settings, state)
    settings, tensors = artifact_contents(plain, head)
    return save_model(
        folder,
        plain,
        source.tokenizer_path,
        settings={"recipe": dict(recipe), **settings},
        modules={MODULE: tensors},
        provenance=Provenance.of(source),
        metrics=metrics,
        overwrite=True,
    )


def artifact_contents(model: Model, head: FineTuned) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what a head adds to the artifact of `model`: settings of the manifest, tensors of the module `MODULE`.

    `model` must be on the CPU and in evaluation mode.
    """
    module = head.task.build(model.settings.shape, head.metadata)
    module.load_state_dict({name: tensor.cpu() for name, tensor in head.module.state_dict().items()})
    settings = {
        "task": encode(head.task),
        "metadata": head.metadata.to_json(),
        "calibration": dict(head.calibration),
        "preprocessing": {"max_length": head.max_length, "truncate": head.truncate},
        "labels": list(head.metadata.labels),
    }
    return settings, _tensors(model, module)


def load_head(loaded: LoadedModel) -> FineTuned:
    """Return the task and head of a loaded model, on the CPU.

    Raises `ArtifactError` for a model without a task, for weights that do not fit, and if the outputs have changed
    since the head was saved; raises as `imported.read_head` for a Hugging Face folder.
    """
    head = imported_head(loaded)
    if head is not None:
        return head
    if loaded.artifact is None or "task" not in loaded.settings:
        raise ArtifactError(
            f"{loaded.path}: has no task. `encodery finetune TASK DATA --model {loaded.path} --out OUT` adds one. Of "
            "Hugging Face folders, classes that classify texts or tokens, answer questions or choose have one."
        )
    where = f"{loaded.path / MODULES / MODULE}.safetensors"
    settings = loaded.settings
    task = decode(Task, settings["task"], f"{loaded.path}: task")
    metadata = TaskMetadata.from_json(settings["metadata"], f"{loaded.path}: metadata")
    module = task.build(loaded.model.settings.shape, metadata)
    stored = loaded.module_state(MODULE)
    weights = {name.removeprefix(WEIGHT_PREFIX): tensor for name, tensor in stored.items() if name != GOLDEN_OUTPUTS}
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise ArtifactError(f"{where}: its weights do not fit the task: {error}") from error
    outputs = golden_outputs(loaded.model, module, read_tensors(loaded.path / GOLDEN))
    drift = golden.relative_difference({GOLDEN_OUTPUTS: outputs}, stored)
    if not drift <= golden.TOLERANCE:
        raise ArtifactError(
            f"{where}: the head no longer computes what it computed when it was saved (relative difference "
            f"{drift:.1e}, {golden.TOLERANCE:.0e} allowed)."
        )
    reads = settings["preprocessing"]
    truncate = parse_truncate(reads["truncate"])
    return FineTuned(task, module, metadata, settings["calibration"], reads["max_length"], truncate)


def imported_head(loaded: LoadedModel) -> FineTuned | None:
    """Return the head of a Hugging Face folder, None without one and for an artifact of ours.

    Raises as `imported.read_head`.
    """
    return imported.read_head(loaded) if loaded.artifact is None else None


def module_state_for(loaded: LoadedModel, model: Model) -> dict[str, Tensor]:
    """Return the tensors of the module `MODULE` of `loaded`, to be saved with `model`, which has other weights.

    Golden outputs are computed again. Raises as `load_head`.
    """
    return _tensors(model, load_head(loaded).module)


@torch.inference_mode()
def golden_outputs(model: Model, module: TaskModule, golden_batch: Mapping[str, Tensor]) -> Tensor:
    """Return the module's outputs for the model's golden sequences.

    Each sequence is an example, and its halves count as two texts. Both `model` and `module` are on the CPU and in
    evaluation mode afterwards.
    """
    cu_seqlens = golden_batch["cu_seqlens"]
    lengths = cu_seqlens.diff().tolist()
    halves = torch.cat([torch.arange(length) * 2 // length + 1 for length in lengths])
    extra = {"sizes": torch.ones(len(lengths), dtype=torch.int64), TEXT_INDEX: halves}
    batch = Batch(golden_batch["ids"], cu_seqlens, int(cu_seqlens.diff().max()), golden_batch.get("segment"), extra)
    outputs: Tensor = module.cpu().eval()(model(batch), batch)
    return outputs.clone()


def _tensors(model: Model, module: TaskModule) -> dict[str, Tensor]:
    weights = {f"{WEIGHT_PREFIX}{name}": tensor for name, tensor in module.state_dict().items()}
    return {**weights, GOLDEN_OUTPUTS: golden_outputs(model, module, golden.golden_outputs(model))}
