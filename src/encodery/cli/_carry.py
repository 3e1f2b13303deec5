"""What stands on an encoder (a task, a trained pooling), moved to another: the same weights, golden outputs anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from encodery.base.errors import SettingsError

if TYPE_CHECKING:
    from torch import Tensor

    from encodery.model.load import Loaded
    from encodery.model.network import Model


def carried(loaded: Loaded, model: Model) -> dict[str, dict[str, Tensor]]:
    """The `modules` of `loaded`, to be saved with `model`, which is on the CPU in evaluation.

    Raises `SettingsError` for a module that is not known here: its golden outputs would not be those of `model`.
    """
    found = loaded.modules()
    for name in found:
        if name not in _MOVES:
            raise SettingsError(
                f"{loaded.path}: its module '{name}' cannot be moved to other weights; {', '.join(_MOVES)} can."
            )
    return {name: _MOVES[name](loaded, model) for name in found}


def check_words(loaded: Loaded) -> None:
    """Raises `SettingsError` for a task that answers in words of the vocabulary, which must then stay as it is."""
    if "task" not in loaded.settings:
        return
    from encodery.finetune.artifact import opened

    if opened(loaded).task.speaks:
        raise SettingsError(
            f"{loaded.path}: its task answers in words of its vocabulary; change the vocabulary of the model before it "
            "is trained for the task."
        )


def _task(loaded: Loaded, model: Model) -> dict[str, Tensor]:
    from encodery.finetune.artifact import carried as moved

    return moved(loaded, model)


def _embed(loaded: Loaded, model: Model) -> dict[str, Tensor]:
    from encodery.embed import stored
    from encodery.embed.embedder import Embedder
    from encodery.model import golden

    old = Embedder.of(loaded, device="cpu")
    new = Embedder(model, loaded.tokenizer, old.settings, old.finishing, "cpu", old.pooling)
    vectors = stored.golden_vectors(new.pooled, golden.make(model), new.device)
    return {**stored.tensors(new.pooling, new.finishing), "golden": vectors}


_MOVES: dict[str, Callable[[Loaded, Model], dict[str, Tensor]]] = {"task": _task, "embed": _embed}
