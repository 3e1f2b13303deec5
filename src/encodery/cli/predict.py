"""encodery predict: what a fine-tuned model says of rows."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

if TYPE_CHECKING:
    from encodery.finetune.predict import Predictor

AT_ONCE = 4096  # rows
ASIDE = ("probabilities", "best", "margin")


def command(
    model: Annotated[str, typer.Argument(help="A run of `encodery finetune`, or its model folder.")],
    file: Annotated[str, typer.Argument(help="Rows (.jsonl, .csv, .parquet, …), texts (.txt, one a line), or -.")],
    columns: Annotated[
        list[str] | None, typer.Argument(metavar="[role=column ...]", help="Where the guess is wrong: text=body.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON lines [default: on the screen].")] = None,
    truncate: Annotated[
        str | None, typer.Option(help="Text that is too long: error, right, left or chunk [default: as in training].")
    ] = None,
    more: Annotated[bool, typer.Option("--all", help="Also the probability of every label, further answers.")] = False,
    batch_tokens: Annotated[int, typer.Option(help="Tokens computed at once.", min=1)] = 4096,
) -> None:
    """Predict: one JSON object a row, in order, with `prediction` and what the task has to say beside it.

    From standard input (-) comes one text a line. How many tokens were dropped is told, and stands in each row that
    lost some.
    """
    from encodery.base.settings import overrides
    from encodery.cli._screen import screen
    from encodery.finetune.predict import Predictor
    from encodery.model.load import load_model

    predictor = Predictor.of(load_model(model))
    begun, count, dropped, tokens = time.perf_counter(), 0, 0, 0
    target = out.open("w", encoding="utf-8") if out is not None else sys.stdout
    try:
        for rows in _pieces(file, predictor, overrides(columns or [])):
            found = predictor.predict(rows, truncate, batch_tokens)
            for answer, lost in zip(found.answers, found.dropped.tolist(), strict=True):
                _write(target, answer, lost, more)
            count, dropped = count + len(found.answers), dropped + int(found.dropped.sum())
            tokens += int(found.tokens.sum())
    finally:
        if out is not None:
            target.close()
    seconds = max(time.perf_counter() - begun, 1e-9)
    console = screen(stderr=out is None)
    if out is not None:
        console.print(
            f"{out}: {count:,} rows, {count / seconds:,.0f} rows/s, {tokens / seconds:,.0f} tokens/s; "
            f"{dropped:,} tokens dropped.",
            soft_wrap=True,
        )
    elif dropped:
        console.print(f"{dropped:,} tokens were dropped (truncate = {truncate or predictor.reader.truncate}).")


def _write(target: TextIO, answer: dict[str, Any], lost: int, more: bool) -> None:
    told = answer if more else {key: value for key, value in answer.items() if key not in ASIDE}
    target.write(json.dumps(told | ({"dropped": lost} if lost else {}), ensure_ascii=False) + "\n")


def _pieces(file: str, predictor: Predictor, columns: dict[str, Any]) -> Iterator[Any]:
    """Rows, a few thousand at a time."""
    if file == "-" or file.endswith(".txt"):
        with sys.stdin if file == "-" else open(file, encoding="utf-8") as lines:
            some: list[str] = []
            for line in lines:
                some.append(line.rstrip("\r\n"))
                if len(some) == AT_ONCE:
                    yield some
                    some = []
            if some:
                yield some
        return
    from encodery.finetune.data import inputs

    rows = inputs(file, predictor.task, columns)
    count = len(next(iter(rows.values())))
    for start in range(0, count, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, count))
        yield {role: [values[number] for number in numbers] for role, values in rows.items()}
