"""encodery evaluate: how good models are, on held-out text and on labelled data, beside any other system."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from encodery.base.parts import parts_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from encodery.evaluate.mlm import Score
    from encodery.evaluate.plan import Plan
SYSTEMS = (
    "PATH of a model; sentence_transformers:PATH, hugging_face:PATH; index:PATH; bm25, tfidf; or a server's http "
    "address. Fields follow as ,field=value. Once for each system; the first is the one the others are compared with."
)
SETTINGS = "Settings of the suite; `encodery show suites NAME` lists them."
TABLES = "Also write the table: .html, .md, .json or .csv. May be given several times."

app = typer.Typer(help="Measure models on held-out text and on labelled data.", no_args_is_help=True)


@app.callback()
def _verbs() -> None:
    """Measure models on held-out text and on labelled data."""


@app.command()
def mlm(
    models_and_data: Annotated[
        list[Path], typer.Argument(metavar="MODEL... DATA", help="Models or runs, then a token store or a corpus.")
    ],
    tokens: Annotated[int | None, typer.Option(help="Held-out tokens to read at most [default: all].", min=1)] = None,
    length: Annotated[
        int | None, typer.Option(help="Longest sequence [default: the longest every model was trained on].")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Loss, accuracy and bits per byte of hidden words: 15 % of the held-out tokens, the same for every model.

    Models with one tokenizer answer the same questions and are compared by loss; bits per byte compare models with
    different ones. Intervals are 95 %, over groups of documents; p is how often chance alone puts a model as far from
    the first.
    """
    from encodery.base.errors import InputError
    from encodery.evaluate.mlm import evaluate_mlm

    if len(models_and_data) < 2:
        raise InputError("Give one or more models, then the token store or corpus to measure them on.")
    scores = evaluate_mlm(models_and_data[:-1], models_and_data[-1], tokens, length)
    if as_json:
        print(json.dumps([score.table() for score in scores], indent=1, ensure_ascii=False))
    else:
        _print(scores)


def _print(scores: list[Score]) -> None:
    from rich.table import Table
    from rich.text import Text

    from encodery.cli._screen import screen
    from encodery.evaluate.tables import chance

    table = Table("model", box=None, header_style="bold")
    against = any(score.p is not None for score in scores)
    heads = ("loss", "accuracy", "bits/byte", "perplexity", "asked", "tokens/s")
    for name in (*heads, *(("behind", "p") if against else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for score in scores:
        table.add_row(
            Text(score.model),
            f"{score.loss:.4f}{_half(score.loss_interval)}",
            f"{100 * score.accuracy:.2f} %",
            f"{score.bits_per_byte:.4f}",
            f"{score.perplexity:.2f}",
            f"{score.predicted:,}",
            f"{score.tokens / max(score.seconds, 1e-9):,.0f}",
            *((_behind(score, scores[0]), "" if score.p is None else chance(score.p)) if against else ()),
        )
    screen(highlight=True).print(table)


def _half(found: tuple[float, float] | None) -> str:
    """Half the width of an interval."""
    return "" if found is None else f" ± {(found[1] - found[0]) / 2:.3f}"


def _behind(score: Score, first: Score) -> str:
    """How much higher the loss is than the first model's."""
    return "" if score.p is None else f"{score.loss - first.loss:+.4f}{_half(score.behind)}"


def _suite(name: str, summary: str) -> Callable[..., None]:
    """The command of one suite."""

    def command(
        data: Annotated[Path, typer.Argument(help="A file or folder of labelled data.")],
        settings: Annotated[list[str] | None, typer.Argument(metavar="[path=value]...", help=SETTINGS)] = None,
        model: Annotated[list[str] | None, typer.Option("--model", "-m", help=SYSTEMS)] = None,
        out: Annotated[list[Path] | None, typer.Option("--out", "-o", help=TABLES)] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    ) -> None:
        from encodery.base.errors import InputError
        from encodery.evaluate import plan

        if not model:
            raise InputError("Give at least one --model.")
        _compare(
            plan.Plan(systems=tuple(map(plan.system, model)), tasks=(plan.task(name, data, settings or ()),)),
            out or [],
            as_json,
        )

    command.__doc__ = f"{summary}\n\nWith several --model, one table: intervals, differences, speed, memory."
    return command


for _name, _summary in parts_of("evaluate.suites").items():
    app.command(_name.replace("_", "-"))(_suite(_name, _summary))


@app.command()
def plan(
    file: Annotated[Path, typer.Argument(help="A TOML file with [[systems]] and [[tasks]].")],
    out: Annotated[list[Path] | None, typer.Option("--out", "-o", help=TABLES)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Several systems on several suites, from a file, in one table.

    A system is a table with `is` (model, sentence_transformers, hugging_face, endpoint, index, tfidf, bm25) and its
    fields; a task has a `suite` with `is` and its fields, and `data`.
    """
    from encodery.evaluate.plan import read_plan

    _compare(read_plan(file), out or [], as_json)


@app.command()
def probe(
    kind: Annotated[str, typer.Argument(help="What is read off the layers; `encodery show probes` lists them.")],
    data: Annotated[Path, typer.Argument(help="A file or folder of labelled data.")],
    settings: Annotated[list[str] | None, typer.Argument(metavar="[path=value]...", help="Settings of it.")] = None,
    model: Annotated[list[Path] | None, typer.Option("--model", "-m", help="A model; once for each.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What each layer of a frozen model knows: tags of words, by logistic regression on its states.

    Beside each layer stands how much better it does than what can be had without the model, with the probability of
    as much by chance. Selectivity is how much better the probe does than on tags that were given to words by chance.
    Of several models the best layers are compared.
    """
    from encodery.base.errors import InputError
    from encodery.base.settings import NAME, decode, overrides
    from encodery.evaluate.probes import Probe, compared
    from encodery.model.load import load_model

    if not model:
        raise InputError("Give at least one --model.")
    asked = decode(Probe, {NAME: kind, **overrides(settings or ())}, kind)
    found = {str(path): asked.measure(data, load_model(path)) for path in model}
    best = compared(found)
    if as_json:
        layers = {path: probed.table() for path, probed in found.items()}
        lines = {
            line["model"]: {"items": found[line["model"]].items, "layers": layers[line["model"]], "best": line}
            for line in best
        }
        print(json.dumps(lines, indent=1, ensure_ascii=False))
        return
    for path, probed in found.items():
        without = next(iter(probed.baselines), "")
        _print_probed(f"{path}, {probed.items:,} items", probed.table(), probed.main, f"to the {without}")
    if len(found) > 1:
        named = [{**line, "layer": f"{line['model']}, layer {line['layer']}"} for line in best]
        _print_probed("best layers", named, next(iter(found.values())).main, "to the first")


def _print_probed(title: str, lines: list[dict[str, Any]], main: str, to: str) -> None:
    from rich.table import Table
    from rich.text import Text

    from encodery.cli._screen import screen
    from encodery.evaluate.tables import chance

    told = [name for name in ("difference", "selectivity") if any(name in line for line in lines)]
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(Text(title))
    heads = {"difference": (to, "p"), "selectivity": ("selectivity",)}
    for name in (main, "95 %", *(head for column in told for head in heads[column])):
        table.add_column(name, justify="right", no_wrap=True)
    for line in lines:
        name = f"layer {line['layer']}" if line["layer"].isdigit() else line["layer"]
        cells = [f"{line[main]:.4f}", _between(line["low"], line["high"], "{:.3f} … {:.3f}")]
        if "difference" in told:
            apart = _between(line.get("difference_low"), line.get("difference_high"), " ({:+.3f} … {:+.3f})")
            here = "difference" in line
            cells += [f"{line['difference']:+.3f}{apart}", chance(line["p"])] if here else ["", ""]
        if "selectivity" in told:
            cells.append(f"{line['selectivity']:+.3f}" if "selectivity" in line else "")
        table.add_row(Text(name), *cells)
    screen().print(table, "")


def _between(low: float | None, high: float | None, form: str) -> str:
    return "" if low is None or high is None else form.format(low, high)


def _compare(plan: Plan, out: list[Path], as_json: bool) -> None:
    from encodery.base.errors import InputError
    from encodery.cli._screen import screen
    from encodery.evaluate import compare, tables

    for path in out:
        if path.suffix not in tables.FORMATS:
            raise InputError(f"{path}: a table is written to {', '.join(tables.FORMATS)}, not '{path.suffix}'.")
    aside = screen(stderr=True)
    found = compare.compare(plan.systems, plan.tasks, say=lambda line: aside.print(line, style="dim", markup=False))
    if as_json:
        print(tables.as_json(found), end="")
    else:
        console = screen()
        for table in tables.rich_tables(found):
            console.print(table, "")
        for reason in tables.reasons(found):
            console.print(reason, style="dim", markup=False)
    for path in out:
        tables.write(found, path)
