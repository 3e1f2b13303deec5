"""Checkpoints: everything a run needs to go on bit for bit, in a folder that is whole or not at all.

`checkpoints/step-00001200/` (artifact kind "checkpoint") holds weights, the states of optimiser and hooks and of the
random generators as safetensors, and state.json: the clock, the place in the data, counters, and what the run was made
of. Where weights are dealt over the ranks, `shards/` holds them with all that has their shape, a file a rank; a run of
any number of processes, dealt or not, goes on from either kind. The manifest has a SHA-256 of every file. A folder that
is torn or altered is named and passed over, and the one before it is used. A new checkpoint is complete before an old
one goes.
"""

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
from encodery.train.optim import load_state, state_tensors
from encodery.train.sharded_checkpoint import distribute, read_own_shards, read_shards, write_shards

KIND = "checkpoint"
FOLDER = "checkpoints"
NAME = re.compile(r"step-(\d+)")
WEIGHTS, OPTIMIZER, HOOKS, RANDOM = "weights", "optimizer", "hooks", "random"
SHARDS = "shards"
BEST = "best"  # the name of the best weights
SINGLE_PROCESS = DistributedContext()


@dataclass
class Snapshot:
    """What a checkpoint holds: tensors by file and name, and the rest as JSON. `shards`: where further tensors lie of
    which each rank is to read its own rows."""

    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    shards: Path | None = None


def capture(module: nn.Module, optimizer: torch.optim.Optimizer, hooks: Sequence[RunningHook]) -> Snapshot:
    """The tensors of a run and its generators' states; the caller adds to `state`."""
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
    """Put a snapshot's tensors back. Raises `CheckpointError` naming what does not fit."""
    own = module.state_dict()
    if snapshot.shards is not None or any(isinstance(tensor, DTensor) for tensor in own.values()):
        _deal(snapshot, own, hooks)
    saved = snapshot.tensors[WEIGHTS]
    wrong = set(own) ^ set(saved) or {name for name in own if own[name].shape != saved[name].shape}
    if wrong:
        raise CheckpointError(f"The checkpoint's weights are another model's; first difference: '{min(wrong)}'.")
    if snapshot.state["hooks"] != len(hooks):
        raise CheckpointError(f"The checkpoint was made with {snapshot.state['hooks']} hooks, not {len(hooks)}.")
    module.load_state_dict(saved)
    load_state(optimizer, snapshot.tensors[OPTIMIZER], snapshot.state["optimizer"])
    for i, hook in enumerate(hooks):
        mark = f"{i}:"
        held = {k.removeprefix(mark): v for k, v in snapshot.tensors[HOOKS].items() if k.startswith(mark)}
        hook.load_tensors(held)
    _set_random_state(snapshot.tensors[RANDOM], snapshot.state["random"])


def write(
    run: Path,
    step: int,
    snapshot: Snapshot,
    settings: Mapping[str, Any],
    pinned: bool = False,
    distributed: DistributedContext = SINGLE_PROCESS,
) -> Path:
    """Write a checkpoint of a run. `pinned` ones stay for good. Every rank of a team that deals its weights calls this,
    else rank 0 alone. Raises `DiskFull`; what was there stays whole."""
    folder = checkpoint_folder(run, step)
    dealt = folder.with_name(f".{folder.name}.{SHARDS}")
    if distributed.is_main:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left in folder.parent.glob(".step-*"):
            shutil.rmtree(left, ignore_errors=True)
    files = dict(snapshot.tensors)
    if distributed.mesh is not None:
        distributed.barrier()
        with translate_disk_full(dealt):
            write_shards(dealt, {name: files.pop(name) for name in list(files) if name != RANDOM})
        distributed.barrier()
    if not distributed.is_main:
        return folder
    with create_artifact(folder, KIND, settings, overwrite=True) as draft:
        if distributed.mesh is not None:
            dealt.rename(draft.path / SHARDS)
        for name, tensors in files.items():
            _write_file(draft.path / f"{name}.safetensors", tensors)
        (draft.path / "state.json").write_text(json.dumps(snapshot.state), encoding="utf-8")
        draft.metrics["step"] = step
        draft.metrics["pinned"] = pinned
    return folder


def verify_checkpoint(folder: Path) -> Path:
    """The folder of a checkpoint, every file compared with its SHA-256. Raises `ArtifactError` naming what is wrong."""
    artifact = Artifact.open(folder, KIND)
    artifact.verify()
    wanted = {RANDOM} if (folder / SHARDS).is_dir() else {WEIGHTS, OPTIMIZER, HOOKS, RANDOM}
    for name in sorted(wanted):
        if f"{name}.safetensors" not in artifact.manifest.files:
            raise ArtifactError(f"{folder / name}.safetensors: missing.")
    return folder


def read(folder: Path, whole_tensors: bool = True) -> Snapshot:
    """What a checkpoint that passed `check` holds. Without `whole`, dealt tensors are left for `restore` to read, each
    rank its own rows. Raises `ArtifactError` for a damaged file."""
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
    """Where the checkpoint of a step lies."""
    return run / FOLDER / f"step-{step:08d}"


def list_checkpoints(run: Path) -> list[Path]:
    """The run's checkpoint folders from first to last, sound or not."""
    return sorted(p for p in (run / FOLDER).glob("step-*") if p.is_dir() and NAME.fullmatch(p.name))


def step_of(folder: Path) -> int:
    """The step a checkpoint's name says it was made at."""
    match = NAME.fullmatch(folder.name)
    if match is None:
        raise CheckpointError(f"{folder}: is no checkpoint; its name should be like step-00001200.")
    return int(match[1])


def latest(run: Path, warn: Callable[[str], None]) -> Path | None:
    """The folder of the last sound checkpoint; each that is passed over is named through `warn`. None where none was
    ever written.

    Raises `CheckpointError` if there are checkpoints and none is sound.
    """
    reasons = []
    for folder in reversed(list_checkpoints(run)):
        try:
            return verify_checkpoint(folder)
        except ArtifactError as error:
            reasons.append(str(error))
            warn(f"checkpoint {folder.name} is not used: {error}")
    if reasons:
        raise CheckpointError(
            f"{run / FOLDER}: none of the {len(reasons)} checkpoints is sound. The last: {reasons[0]}"
        )
    return None


def prune(run: Path, keep: int) -> None:
    """Remove all but the last `keep` checkpoints and the pinned ones."""
    loose = [folder for folder in list_checkpoints(run) if not _pinned(folder)]
    for folder in loose[:-keep]:
        shutil.rmtree(folder)


def differences(before: Any, now: Any, where: str = "") -> Iterator[str]:
    """Where two JSON values differ, as `path: before → now`."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            yield from differences(before.get(key), now.get(key), f"{where}.{key}" if where else key)
    elif before != now:
        yield f"{where}: {before!r} → {now!r}"


def check_identity(before: Mapping[str, Any], now: Mapping[str, Any], checkpoint: str) -> None:
    """Raises `CheckpointError` naming every setting or fingerprint that changed since `what` was made."""
    changed = list(differences(before, now))
    if changed:
        raise CheckpointError(
            f"{checkpoint} was made with other settings or data, so the run would not continue where it stopped. "
            f"Changed: {'; '.join(changed[:8])}."
        )


def _deal(snapshot: Snapshot, own: Mapping[str, Tensor], hooks: Sequence[RunningHook]) -> None:
    """Leave in `snapshot` this rank's rows of all that is dealt as the weights `own` are."""
    averages = {f"{i}:{key}": value for i, hook in enumerate(hooks) for key, value in hook.state_tensors().items()}

    def like(group: str, name: str) -> Tensor | None:
        if group == HOOKS:
            return averages.get(name)
        return own.get(name.rpartition(":")[0] if group == OPTIMIZER else name)

    found = distribute(snapshot.tensors, like) if snapshot.shards is None else read_own_shards(snapshot.shards, like)
    snapshot.tensors |= {HOOKS: {}, OPTIMIZER: {}} | found


def _pinned(folder: Path) -> bool:
    try:
        return bool(Artifact.open(folder, KIND).manifest.metrics.get("pinned"))
    except ArtifactError:
        return False


def _write_file(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file; its library reports a full disk in its own way."""
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
    kind, keys, place, has_gauss, gauss = np.random.get_state(legacy=True)
    tensors["numpy"] = torch.from_numpy(np.asarray(keys, dtype=np.int64))
    version, numbers, following = random.getstate()
    return tensors, {
        "python": [version, list(numbers), following],
        "numpy": [kind, int(place), int(has_gauss), float(gauss)],
    }


def _set_random_state(tensors: Mapping[str, Tensor], others: Mapping[str, Any]) -> None:
    torch.set_rng_state(tensors["torch"])
    cards = [name for name in tensors if name.startswith("cuda:")]
    if torch.cuda.is_available() and len(cards) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([tensors[f"cuda:{i}"] for i in range(len(cards))])
    kind, place, has_gauss, gauss = others["numpy"]
    np.random.set_state((kind, tensors["numpy"].numpy().astype(np.uint32), place, has_gauss, gauss))
    version, numbers, following = others["python"]
    random.setstate((version, tuple(numbers), following))
