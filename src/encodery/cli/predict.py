"""encodery predict: what a fine-tuned model says of rows."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from collections.abc import Iterator, Sequence
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
    split: Annotated[str | None, typer.Option(help="Of a file or folder with several: train, dev or test.")] = None,
    types: Annotated[
        str | None, typer.Option(help="Of `label_spans`: what to look for, person,place [default: as in training].")
    ] = None,
) -> None:
    """Predict: one JSON object a row, in order, with `prediction` and what the task has to say beside it.

    From standard input (-) comes one text a line. How many tokens were dropped is told, and stands in each row that
    lost some. OUT appears when all rows are answered; what was there stays until then.
    """
    from encodery.base.settings import overrides
    from encodery.cli._screen import screen
    from encodery.finetune.predict import Predictor
    from encodery.model.load import load_model

    predictor = Predictor.of(load_model(model))
    begun, count, dropped, tokens = time.perf_counter(), 0, 0, 0
    asked = _asked(types, predictor)
    with _opened(out) as target:
        for rows in _pieces(file, predictor, overrides(columns or []), split):
            if asked is not None:
                rows = {**rows, "types": [asked] * len(next(iter(rows.values())))}
            found = predictor.predict(rows, truncate, batch_tokens)
            for answer, lost in zip(found.answers, found.dropped.tolist(), strict=True):
                _write(target, answer, lost, more)
            count, dropped = count + len(found.answers), dropped + int(found.dropped.sum())
            tokens += int(found.tokens.sum())
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


@contextlib.contextmanager
def _opened(out: Path | None) -> Iterator[TextIO]:
    """Where answers go: the screen, or a file that takes its place when it is whole."""
    if out is None:
        yield sys.stdout
        return
    from encodery.base.artifact import replacing

    with replacing(out) as file, io.TextIOWrapper(file, encoding="utf-8") as text:
        yield text


def _asked(types: str | None, predictor: Predictor) -> list[str] | None:
    """The types to look for. Raises `InputError` for a task that looks for none."""
    from encodery.base.errors import InputError
    from encodery.base.parts import name_of

    if types is None:
        return None
    if not any("types" in form.inputs for form in predictor.task.forms):
        raise InputError(f"--types: is of `label_spans`, this model is of the task '{name_of(predictor.task)}'.")
    names = [name.strip() for name in types.split(",") if name.strip()]
    if not names:
        raise InputError(f"--types = '{types}': names are needed, such as person,place.")
    return names


def _pieces(
    file: str, predictor: Predictor, columns: dict[str, Any], split: str | None
) -> Iterator[dict[str, Sequence[Any]]]:
    """Rows by role, a few thousand at a time. Raises `InputError` for columns or splits of what has none."""
    from encodery.base.errors import InputError
    from encodery.cli._screen import screen
    from encodery.finetune.data import inputs
    from encodery.rows.opening import opened_text

    if file == "-" or file.endswith(".txt"):
        if columns or split:
            given = "--split" if split else ", ".join(columns)
            raise InputError(
                f"{given}: {'standard input' if file == '-' else file} is one text a line, without columns."
            )
        opened = contextlib.nullcontext((sys.stdin, ())) if file == "-" else opened_text(Path(file))
        with opened as (lines, notes):
            for note in notes:
                screen(stderr=True).print(note, soft_wrap=True)
            some: list[str] = []
            for line in lines:
                some.append(line.rstrip("\r\n"))
                if len(some) == AT_ONCE:
                    yield {"text": some}
                    some = []
            if some:
                yield {"text": some}
        return
    rows = inputs(file, predictor.task, columns, split)
    count = len(next(iter(rows.values())))
    for start in range(0, count, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, count))
        yield {role: [values[number] for number in numbers] for role, values in rows.items()}
