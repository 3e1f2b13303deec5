"""encodery search stats: print what an index holds and how it was built."""

from __future__ import annotations

import json

from encodery.cli._options import Json
from encodery.cli.search._shared import Index, print_statistics


def command(folder: Index, as_json: Json = False) -> None:
    """Print the size of an index, its models, their runtimes and weights, and what was left out."""
    from encodery.cli._screen import screen
    from encodery.search.index import SearchIndex

    with SearchIndex(folder) as opened:
        manifest = opened.artifact.manifest
        metrics = {**manifest.metrics, "documents": opened.store.documents(), "passages": opened.store.count()}
        models, weights = opened.models, opened.weights
    metrics |= {"weight": opened.weight, "weights": weights}
    if as_json:
        print(json.dumps({**metrics, "models": models, "created": manifest.created}))
        return
    console = screen()
    print_statistics(console, metrics, folder)
    for mode, model in models.items():
        runtime = model.get("runtime", {}).get("name")
        encoded_by = {None: "", "": "", "torch": ", run in float32"}.get(runtime, f", run by {runtime}")
        where = (model["path"] or "a model without a folder") + encoded_by
        console.print(f"  {mode:<10} {where}, weight {weights[mode]:.2f}", soft_wrap=True)
    if not models:
        console.print("  model      none: BM25 only")
