"""encodery compress: repeat a run with its model compressed: a teacher, pruned weights, 8-bit arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from encodery.cli._options import OutRun, Settings


def command(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="A finished run of `pretrain`, `finetune`, `embed train` or `compress`; its model is the teacher.",
        ),
    ],
    out: OutRun,
    settings: Settings = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="The model that is trained, such as a smaller one of the same vocabulary [default: the model of RUN]."
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="How long to train: 10m, 200Mtok or 500steps [default: the budget of RUN]."),
    ] = None,
) -> None:
    """Train on the data of a finished run again while its model is made smaller or cheaper.

    distill=logits trains --model to predict what the model of RUN predicts; distill='["logits", "hidden"]' compares
    hidden states too, and task_weight=0 leaves out the labels. prune.is=magnitude sets a fraction prune.sparsity of the
    weights to zero. quantize.is=fake trains with the 8-bit arithmetic of the engine packed_int8. They can be combined.
    Settings of the run itself (train.*, optim.*, task.*) can be changed too.

    The result is a run like RUN, with an ordinary model. `encodery resume` continues an interrupted one.
    """
    from encodery.base.settings import parse_overrides
    from encodery.cli._screen import screen
    from encodery.cli.resume import report
    from encodery.compress.settings import compress_recipe
    from encodery.train.launch import start

    over = parse_overrides(settings or [])
    if budget is not None:
        over.setdefault("train", {})["budget"] = budget
    console = screen(highlight=True)
    report(start(compress_recipe(run, over, model), out, console), console)
