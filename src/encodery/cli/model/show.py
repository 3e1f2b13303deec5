"""encodery model show: print what a model is: sizes, parts, tokenizer, task or embedding, and metrics."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from encodery.cli._options import Json, ModelArgument

if TYPE_CHECKING:
    from encodery.model.load import LoadedModel


def command(model: ModelArgument, as_json: Json = False) -> None:
    """Print the sizes, parts, tokenizer, task or embedding settings and stored metrics of a model."""
    from rich.table import Table
    from rich.text import Text

    from encodery.cli._screen import screen
    from encodery.model.load import load_model

    facts = model_facts(load_model(model))
    if as_json:
        print(json.dumps(facts, indent=1, ensure_ascii=False))
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _flat(facts):
        shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
        table.add_row(Text(name), Text(shown))
    screen().print(table)


def model_facts(loaded: LoadedModel) -> dict[str, Any]:
    """Return what `model show` prints, as JSON values."""
    from encodery.base.settings import encode
    from encodery.encoders.loading import encoder_names

    manifest = None if loaded.artifact is None else loaded.artifact.manifest
    facts: dict[str, Any] = {
        "path": str(loaded.path),
        "layout": "encodery" if loaded.origin is None else loaded.origin.format,
        "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),
        "model": encode(loaded.model.settings),
    }
    if loaded.tokenizer_path is not None:
        facts["tokenizer"] = {"tokens": loaded.tokenizer.used_size, "fingerprint": loaded.tokenizer.fingerprint}
    facts |= {name: loaded.settings[name] for name in (*encoder_names(), "task") if name in loaded.settings}
    if manifest is not None:
        facts |= {"created": manifest.created, "metrics": manifest.metrics}
    return facts


def _flat(value: Any, name: str = "") -> list[tuple[str, Any]]:
    """Return the leaves of nested tables under dotted names."""
    if not isinstance(value, dict):
        return [(name, value)]
    return [leaf for key, item in value.items() for leaf in _flat(item, f"{name}.{key}" if name else str(key))]
