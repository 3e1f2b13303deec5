"""encodery predict: predict labels, tags, spans or scores with a fine-tuned model."""

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

from encodery.cli._options import ModelOption

if TYPE_CHECKING:
    from encodery.finetune.predict import Predictor

CHUNK_ROWS = 4096
DETAILS = ("probabilities", "candidates", "margin")


def command(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="Rows (.jsonl, .csv, .parquet, ...), texts (.txt, one per line), or - for stdin."
        ),
    ],
    model: ModelOption,
    columns: Annotated[
        list[str] | None,
        typer.Argument(metavar="[role=column ...]", help="Columns that are not recognised by name, such as text=body."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The .jsonl file to write [default: JSON lines on stdout].")
    ] = None,
    truncate: Annotated[
        str | None,
        typer.Option(
            help="What happens to a text longer than the model's maximum: error, right, left or chunk [default: as in "
            "training]."
        ),
    ] = None,
    details: Annotated[
        bool, typer.Option("--all", help="Also write the probability of every label and alternative predictions.")
    ] = False,
    batch_tokens: Annotated[int, typer.Option(help="The number of tokens computed in one batch.", min=1)] = 4096,
    split: Annotated[
        str | None, typer.Option(help="The split to predict if a file or folder has several: train, dev or test.")
    ] = None,
    types: Annotated[
        str | None,
        typer.Option(help="For `label_spans`: the types to find, such as person,place [default: as in training]."),
    ] = None,
) -> None:
    """Predict with a fine-tuned model: one JSON object per row, in order, with `prediction` and the task's details.

    Standard input (-) has one text per line. The number of dropped tokens is reported, and each affected row says how
    many it lost. OUT is written when all rows are predicted; until then an existing file stays unchanged.
    """
    from encodery.base.settings import parse_overrides
    from encodery.cli._screen import screen
    from encodery.finetune.predict import Predictor
    from encodery.model.load import load_model

    predictor = Predictor.from_model(load_model(model))
    start, count, dropped, tokens = time.perf_counter(), 0, 0, 0
    wanted_types = _parse_types(types, predictor)
    with _open_output(out) as target:
        for rows in _chunks(file, predictor, parse_overrides(columns or []), split):
            if wanted_types is not None:
                rows = {**rows, "types": [wanted_types] * len(next(iter(rows.values())))}
            predictions = predictor.predict(rows, truncate, batch_tokens)
            for answer, lost in zip(predictions.answers, predictions.dropped_tokens.tolist(), strict=True):
                _write(target, answer, lost, details)
            count, dropped = count + len(predictions.answers), dropped + int(predictions.dropped_tokens.sum())
            tokens += int(predictions.tokens.sum())
    seconds = max(time.perf_counter() - start, 1e-9)
    console = screen(stderr=out is None)
    if out is not None:
        console.print(
            f"{out}: {count:,} rows, {count / seconds:,.0f} rows/s, {tokens / seconds:,.0f} tokens/s; "
            f"{dropped:,} tokens dropped.",
            soft_wrap=True,
        )
    elif dropped:
        console.print(f"{dropped:,} tokens were dropped (truncate = {truncate or predictor.preprocessor.truncate}).")


def _write(target: TextIO, answer: dict[str, Any], lost: int, details: bool) -> None:
    shown = answer if details else {key: value for key, value in answer.items() if key not in DETAILS}
    target.write(json.dumps(shown | ({"dropped": lost} if lost else {}), ensure_ascii=False) + "\n")


@contextlib.contextmanager
def _open_output(out: Path | None) -> Iterator[TextIO]:
    """Open stdout, or a file that appears only when it is complete."""
    if out is None:
        yield sys.stdout
        return
    from encodery.base.artifact import atomic_open

    with atomic_open(out) as file, io.TextIOWrapper(file, encoding="utf-8") as text:
        yield text


def _parse_types(types: str | None, predictor: Predictor) -> list[str] | None:
    """Parse --types. Raises `InputError` for a task without types."""
    from encodery.base.errors import InputError
    from encodery.base.parts import name_of

    if types is None:
        return None
    if not any("types" in form.inputs for form in predictor.task.schemas):
        raise InputError(
            f"--types: is for models of `label_spans`; this model is for the task '{name_of(predictor.task)}'."
        )
    names = [name.strip() for name in types.split(",") if name.strip()]
    if not names:
        raise InputError(f"--types {types}: give names, such as person,place.")
    return names


def _chunks(
    file: str, predictor: Predictor, columns: dict[str, Any], split: str | None
) -> Iterator[dict[str, Sequence[Any]]]:
    """Yield the rows by role, `CHUNK_ROWS` at a time. Raises `InputError` for columns or splits of plain text."""
    from encodery.base.errors import InputError
    from encodery.cli._screen import screen
    from encodery.finetune.data import read_inputs
    from encodery.rows.text_files import open_text

    if file == "-" or file.endswith(".txt"):
        if columns or split:
            option = "--split" if split else ", ".join(columns)
            source = "standard input" if file == "-" else file
            raise InputError(f"{option}: {source} has one text per line, without columns or splits.")
        opened = contextlib.nullcontext((sys.stdin, ())) if file == "-" else open_text(Path(file))
        with opened as (lines, notes):
            for note in notes:
                screen(stderr=True).print(note, soft_wrap=True)
            texts: list[str] = []
            for line in lines:
                texts.append(line.rstrip("\r\n"))
                if len(texts) == CHUNK_ROWS:
                    yield {"text": texts}
                    texts = []
            if texts:
                yield {"text": texts}
        return
    rows = read_inputs(file, predictor.task, columns, split)
    count = len(next(iter(rows.values())))
    for start in range(0, count, CHUNK_ROWS):
        numbers = range(start, min(start + CHUNK_ROWS, count))
        yield {role: [values[number] for number in numbers] for role, values in rows.items()}
