"""Moving a task head or a trained pooling from one encoder to another, with recomputed golden outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from encodery.base.errors import SettingsError

if TYPE_CHECKING:
    from torch import Tensor

    from encodery.model.load import LoadedModel
    from encodery.model.network import Model


def carried(loaded: LoadedModel, model: Model) -> dict[str, dict[str, Tensor]]:
    """Return the `modules` of `loaded` for saving with `model`, which is on the CPU in evaluation mode.

    Raises `SettingsError` for a module whose golden outputs cannot be recomputed here.
    """
    modules = loaded.modules()
    for name in modules:
        if name not in _MOVES:
            raise SettingsError(
                f"{loaded.path}: its module '{name}' cannot be moved to other weights; only {', '.join(_MOVES)} can."
            )
    return {name: _MOVES[name](loaded, model) for name in modules}


def check_vocabulary(loaded: LoadedModel) -> None:
    """Raise `SettingsError` for a task that predicts tokens of the vocabulary, which must therefore stay the same."""
    if "task" not in loaded.settings:
        return
    from encodery.finetune.artifact import load_head

    if load_head(loaded).task.uses_mlm_head:
        raise SettingsError(
            f"{loaded.path}: its task predicts tokens of its vocabulary; change the vocabulary of the model before "
            "fine-tuning it."
        )


def _task(loaded: LoadedModel, model: Model) -> dict[str, Tensor]:
    from encodery.finetune.artifact import module_state_for as moved

    return moved(loaded, model)


def _dense(loaded: LoadedModel, model: Model) -> dict[str, Tensor]:
    from encodery.encoders import storage
    from encodery.encoders.dense import DenseEncoder
    from encodery.model import golden

    old = DenseEncoder.from_loaded(loaded, device="cpu")
    new = DenseEncoder(model, loaded.tokenizer, old.settings, old.postprocessing, "cpu", old.pooling)
    vectors = storage.golden_vectors(new.pool_batch, golden.golden_outputs(model), new.device)
    return {**storage.module_tensors(new.pooling, new.postprocessing), "golden": vectors}


def _static(loaded: LoadedModel, model: Model) -> dict[str, Tensor]:
    from encodery.encoders.static import KEY, StaticEncoder

    old = StaticEncoder.from_loaded(loaded, "cpu")
    return StaticEncoder(model, loaded.tokenizer, old.settings, old.postprocessing, "cpu").stored().modules[KEY]


_MOVES: dict[str, Callable[[LoadedModel, Model], dict[str, Tensor]]] = {
    "task": _task,
    "dense": _dense,
    "static": _static,
}
