"""Moving a task head or a trained pooling from one encoder to another, with recomputed golden outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from encodery.base.errors import SettingsError

if TYPE_CHECKING:
    from torch import Tensor

    from encodery.model.load import Loaded
    from encodery.model.network import Model


def carried(loaded: Loaded, model: Model) -> dict[str, dict[str, Tensor]]:
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


def check_vocabulary(loaded: Loaded) -> None:
    """Raise `SettingsError` for a task that predicts tokens of the vocabulary, which must therefore stay the same."""
    if "task" not in loaded.settings:
        return
    from encodery.finetune.artifact import opened

    if opened(loaded).task.speaks:
        raise SettingsError(
            f"{loaded.path}: its task predicts tokens of its vocabulary; change the vocabulary of the model before "
            "fine-tuning it."
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
