"""Checkpoints: everything that a run needs to continue bit for bit, in a folder that is complete or not there at all.

`checkpoints/step-00001200/` (artifact kind "checkpoint") holds the weights and the states of the optimiser, the hooks
and the random generators as safetensors, and state.json: the clock, the position in the data, counters, and the
identity of the run. With sharded weights `shards/` holds them and everything of their shape, one file per rank; a run
of any number of processes, sharded or not, continues from either kind. The manifest has a SHA-256 of every file. A
folder that is incomplete or altered is named and skipped, and the one before it is used. A new checkpoint is complete
before an old one is removed."""

from __future__ import annotations

import errno
import json
import random
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from encodery.base.artifact import Artifact, create_artifact, translate_disk_full
from encodery.base.errors import ArtifactError, CheckpointError
from encodery.model.checkpoint import read_json, read_tensors, write_tensors
from encodery.train.distributed import DistributedContext
from encodery.train.hooks import RunningHook
from encodery.train.optimizer_state import load_state, state_tensors
from encodery.train.sharded_checkpoint import distribute, read_own_shards, read_shards, write_shards

KIND = "checkpoint"
FOLDER = "checkpoints"
NAME = re.compile(r"step-(\d+)")
WEIGHTS, OPTIMIZER, HOOKS, RANDOM = "weights", "optimizer", "hooks", "random"
SHARDS = "shards"
BEST = "best"  # the best weights
SINGLE_PROCESS = DistributedContext()


@dataclass
class Snapshot:
    """What a checkpoint holds: tensors by file and name, and the rest as JSON. `shards`: the folder of further tensors,
    of which each rank reads its own shard."""

    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    shards: Path | None = None


def capture(module: nn.Module, optimizer: torch.optim.Optimizer, hooks: Sequence[RunningHook]) -> Snapshot:
    """The tensors of a run and the states of its generators; the caller adds to `state`."""
    tensors, record = state_tensors(optimizer)
    generators, python = _random_state()
    return Snapshot(
        {
            WEIGHTS: {name: tensor.detach() for name, tensor in module.state_dict().items()},
            OPTIMIZER: tensors,
            HOOKS: {f"{i}:{key}": value for i, hook in enumerate(hooks) for key, value in hook.state_tensors().items()},
            RANDOM: generators,
        },
        {"optimizer": record, "random": python, "hooks": len(hooks)},
    )


def restore(
    snapshot: Snapshot, module: nn.Module, optimizer: torch.optim.Optimizer, hooks: Sequence[RunningHook]
) -> None:
    """Load the tensors of a snapshot. Raises `CheckpointError` naming what does not fit."""
    own = module.state_dict()
    if snapshot.shards is not None or any(isinstance(tensor, DTensor) for tensor in own.values()):
        _load_shards(snapshot, own, hooks)
    saved = snapshot.tensors[WEIGHTS]
    wrong = set(own) ^ set(saved) or {name for name in own if own[name].shape != saved[name].shape}
    if wrong:
        raise CheckpointError(f"The weights of the checkpoint are another model's; first difference: '{min(wrong)}'.")
    if snapshot.state["hooks"] != len(hooks):
        raise CheckpointError(f"The checkpoint was made with {snapshot.state['hooks']} hooks, not {len(hooks)}.")
    module.load_state_dict(saved)
    load_state(optimizer, snapshot.tensors[OPTIMIZER], snapshot.state["optimizer"])
    for i, hook in enumerate(hooks):
        prefix = f"{i}:"
        tensors = {k.removeprefix(prefix): v for k, v in snapshot.tensors[HOOKS].items() if k.startswith(prefix)}
        hook.load_tensors(tensors)
    _set_random_state(snapshot.tensors[RANDOM], snapshot.state["random"])


def write(
    run: Path,
    step: int,
    snapshot: Snapshot,
    settings: Mapping[str, Any],
    pinned: bool = False,
    distributed: DistributedContext = SINGLE_PROCESS,
) -> Path:
    """Write a checkpoint of a run; `pinned` ones are never removed. With sharded weights every rank calls this,
    otherwise rank 0 alone. Raises `DiskFull`; what was there stays complete."""
    folder = checkpoint_folder(run, step)
    shards = folder.with_name(f".{folder.name}.{SHARDS}")
    if distributed.is_main:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for leftover in folder.parent.glob(".step-*"):
            shutil.rmtree(leftover, ignore_errors=True)
    files = dict(snapshot.tensors)
    if distributed.mesh is not None:
        distributed.barrier()
        with translate_disk_full(shards):
            write_shards(shards, {name: files.pop(name) for name in list(files) if name != RANDOM})
        distributed.barrier()
    if not distributed.is_main:
        return folder
    with create_artifact(folder, KIND, settings, overwrite=True) as draft:
        if distributed.mesh is not None:
            shards.rename(draft.path / SHARDS)
        for name, tensors in files.items():
            _write_file(draft.path / f"{name}.safetensors", tensors)
        (draft.path / "state.json").write_text(json.dumps(snapshot.state), encoding="utf-8")
        draft.metrics["step"] = step
        draft.metrics["pinned"] = pinned
    return folder


def verify_checkpoint(folder: Path) -> Path:
    """The folder of a checkpoint, after comparing every file with its SHA-256. Raises `ArtifactError` naming what is
    wrong."""
    artifact = Artifact.open(folder, KIND)
    artifact.verify()
    required = {RANDOM} if (folder / SHARDS).is_dir() else {WEIGHTS, OPTIMIZER, HOOKS, RANDOM}
    for name in sorted(required):
        if f"{name}.safetensors" not in artifact.manifest.files:
            raise ArtifactError(f"{folder / name}.safetensors: missing.")
    return folder


def read(folder: Path, whole_tensors: bool = True) -> Snapshot:
    """The content of a verified checkpoint. Without `whole_tensors`, sharded tensors are left for `restore`, which
    reads this rank's shards. Raises `ArtifactError` for a damaged file."""
    files = sorted(folder.glob("*.safetensors"))
    snapshot = Snapshot({path.stem: read_tensors(path) for path in files}, read_json(folder / "state.json"))
    if (folder / SHARDS).is_dir():
        if whole_tensors:
            empty: dict[str, dict[str, Tensor]] = {HOOKS: {}, OPTIMIZER: {}}
            snapshot.tensors |= empty | read_shards(folder / SHARDS)
        else:
            snapshot.shards = folder / SHARDS
    return snapshot


def checkpoint_folder(run: Path, step: int) -> Path:
    """The folder of the checkpoint of a step."""
    return run / FOLDER / f"step-{step:08d}"


def list_checkpoints(run: Path) -> list[Path]:
    """The checkpoint folders of a run from first to last, damaged ones included."""
    return sorted(p for p in (run / FOLDER).glob("step-*") if p.is_dir() and NAME.fullmatch(p.name))


def step_of(folder: Path) -> int:
    """The step in the name of a checkpoint folder. Raises `CheckpointError` for another name."""
    match = NAME.fullmatch(folder.name)
    if match is None:
        raise CheckpointError(f"{folder}: is no checkpoint; its name must be like step-00001200.")
    return int(match[1])


def latest(run: Path, warn: Callable[[str], None]) -> Path | None:
    """The folder of the last undamaged checkpoint; each one that is skipped is reported to `warn`. None if none was
    ever written.

    Raises `CheckpointError` if there are checkpoints and all are damaged.
    """
    reasons = []
    for folder in reversed(list_checkpoints(run)):
        try:
            return verify_checkpoint(folder)
        except ArtifactError as error:
            reasons.append(str(error))
            warn(f"checkpoint {folder.name} is not used: {error}")
    if reasons:
        raise CheckpointError(f"{run / FOLDER}: all {len(reasons)} checkpoints are damaged. The last: {reasons[0]}")
    return None


def prune(run: Path, keep: int) -> None:
    """Remove all but the last `keep` checkpoints and the pinned ones."""
    removable = [folder for folder in list_checkpoints(run) if not _pinned(folder)]
    for folder in removable[:-keep]:
        shutil.rmtree(folder)


def differences(before: Any, now: Any, path: str = "") -> Iterator[str]:
    """The differences between two JSON values, as `path: before → now`."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            yield from differences(before.get(key), now.get(key), f"{path}.{key}" if path else key)
    elif before != now:
        yield f"{path}: {before!r} → {now!r}"


def check_identity(before: Mapping[str, Any], now: Mapping[str, Any], checkpoint: str) -> None:
    """Raise `CheckpointError` naming every setting or fingerprint that changed since `checkpoint` was written."""
    changed = list(differences(before, now))
    if changed:
        raise CheckpointError(
            f"{checkpoint} was made with other settings or data, so the run would not continue where it stopped. "
            f"Changed: {'; '.join(changed[:8])}."
        )


def _load_shards(snapshot: Snapshot, own: Mapping[str, Tensor], hooks: Sequence[RunningHook]) -> None:
    """Put this rank's shards into the snapshot, of every tensor that is sharded as the weights `own` are."""
    averages = {f"{i}:{key}": value for i, hook in enumerate(hooks) for key, value in hook.state_tensors().items()}

    def like(group: str, name: str) -> Tensor | None:
        if group == HOOKS:
            return averages.get(name)
        return own.get(name.rpartition(":")[0] if group == OPTIMIZER else name)

    shards = snapshot.shards
    tensors = distribute(snapshot.tensors, like) if shards is None else read_own_shards(shards, like)
    snapshot.tensors |= {HOOKS: {}, OPTIMIZER: {}} | tensors


def _pinned(folder: Path) -> bool:
    try:
        return bool(Artifact.open(folder, KIND).manifest.metrics.get("pinned"))
    except ArtifactError:
        return False


def _write_file(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file; the library reports a full disk in its own way, which is translated."""
    with translate_disk_full(path):
        try:
            write_tensors(path, dict(tensors))
        except safetensors.SafetensorError as error:
            if "os error 28" in str(error) or "No space left" in str(error):
                raise OSError(errno.ENOSPC, str(error), str(path)) from error
            raise


def _random_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors |= {f"cuda:{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    tensors["numpy"] = torch.from_numpy(np.asarray(keys, dtype=np.int64))
    version, numbers, following = random.getstate()
    return tensors, {
        "python": [version, list(numbers), following],
        "numpy": [kind, int(position), int(has_gauss), float(gauss)],
    }


def _set_random_state(tensors: Mapping[str, Tensor], others: Mapping[str, Any]) -> None:
    torch.set_rng_state(tensors["torch"])
    cuda = [name for name in tensors if name.startswith("cuda:")]
    if torch.cuda.is_available() and len(cuda) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([tensors[f"cuda:{i}"] for i in range(len(cuda))])
    kind, position, has_gauss, gauss = others["numpy"]
    np.random.set_state((kind, tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, gauss))
    version, numbers, following = others["python"]
    random.setstate((version, tuple(numbers), following))
