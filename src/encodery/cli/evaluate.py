"""encodery evaluate: measure models on held-out text and labelled data, and compare them with other systems."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from encodery.base.parts import parts_of
from encodery.cli._options import Json, Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from encodery.evaluate.mlm import MLMScore
    from encodery.evaluate.plan import ComparisonPlan
SYSTEMS = (
    "The system to measure: the folder of a model, sentence_transformers:FOLDER, hugging_face:FOLDER, index:FOLDER, "
    "bm25, "
    "tfidf, or the http address of a server. Settings follow as ,name=value. Repeat it for each system; the others are "
    "compared with the first."
)
SETTINGS = "Settings of the suite, listed by `encodery show suites NAME`, each written path=value."
TABLES = "A file for the table: .html, .md, .json or .csv. May be repeated."

app = typer.Typer(help="Measure models on held-out text and on labelled data.", no_args_is_help=True)


@app.callback()
def _verbs() -> None:
    """Measure models on held-out text and on labelled data."""


@app.command()
def mlm(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A token folder or a corpus folder.")],
    model: Annotated[
        list[Path],
        typer.Option("--model", "-m", help="A run or model folder. Repeat it to compare models with the first."),
    ],
    tokens: Annotated[
        int | None, typer.Option(help="The maximum number of held-out tokens to read [default: all].", min=1)
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(help="The longest sequence, in tokens [default: the longest that all models were trained on]."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure masked language modelling on held-out text: loss, accuracy and bits per byte at 15 % of the tokens.

    Models that share a tokenizer predict the same masked tokens and are compared by loss; bits per byte compare models
    with different tokenizers. Intervals are 95 % confidence intervals over groups of documents; p is the p-value of the
    difference from the first model.
    """
    from encodery.evaluate.mlm import evaluate_mlm

    scores = evaluate_mlm(model, data, tokens, length)
    if as_json:
        print(json.dumps([score.to_dict() for score in scores], indent=1, ensure_ascii=False))
    else:
        _print(scores)


def _print(scores: list[MLMScore]) -> None:
    from rich.table import Table
    from rich.text import Text

    from encodery.cli._screen import screen
    from encodery.evaluate.tables import format_p

    table = Table("model", box=None, header_style="bold")
    compared = any(score.p is not None for score in scores)
    heads = ("loss", "accuracy", "bits/byte", "perplexity", "masked", "tokens/s")
    for name in (*heads, *(("difference", "p") if compared else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for score in scores:
        table.add_row(
            Text(score.model),
            f"{score.loss:.4f}{_half_width(score.loss_interval)}",
            f"{100 * score.accuracy:.2f} %",
            f"{score.bits_per_byte:.4f}",
            f"{score.perplexity:.2f}",
            f"{score.predicted:,}",
            f"{score.tokens / max(score.seconds, 1e-9):,.0f}",
            *((_difference(score, scores[0]), "" if score.p is None else format_p(score.p)) if compared else ()),
        )
    screen(highlight=True).print(table)


def _half_width(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" ± {(interval[1] - interval[0]) / 2:.3f}"


def _difference(score: MLMScore, first: MLMScore) -> str:
    """Return how much higher the loss is than that of the first model, with its interval."""
    return "" if score.p is None else f"{score.loss - first.loss:+.4f}{_half_width(score.difference_interval)}"


def _suite(name: str, summary: str) -> Callable[..., None]:
    """Return the command of one suite."""

    def command(
        data: Annotated[Path, typer.Argument(metavar="DATA", help="A file or folder of labelled data.")],
        model: Annotated[list[str], typer.Option("--model", "-m", help=SYSTEMS)],
        settings: Annotated[list[str] | None, typer.Argument(metavar="[path=value ...]", help=SETTINGS)] = None,
        out: Annotated[list[Path] | None, typer.Option("--out", "-o", help=TABLES)] = None,
        as_json: Json = False,
    ) -> None:
        from encodery.evaluate import plan

        _compare(
            plan.ComparisonPlan(
                systems=tuple(map(plan.parse_system, model)), tasks=(plan.parse_task(name, data, settings or ()),)
            ),
            out or [],
            as_json,
        )

    comparison = "Several --model are compared in one table, with confidence intervals, differences, speed and memory."
    command.__doc__ = f"{summary}\n\n{comparison}"
    return command


for _name, _summary in parts_of("evaluate.suites").items():
    app.command(_name.replace("_", "-"))(_suite(_name, _summary))


@app.command()
def plan(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A TOML file with [[systems]] and [[tasks]].")],
    out: Annotated[list[Path] | None, typer.Option("--out", "-o", help=TABLES)] = None,
    as_json: Json = False,
) -> None:
    """Measure several systems on several suites, listed in a file, in one table.

    A system is a table with `is` (model, sentence_transformers, hugging_face, endpoint, index, tfidf, bm25) and its
    settings. A task is a table with `data` and a `suite`, which has `is` and its settings.
    """
    from encodery.evaluate.plan import read_plan

    _compare(read_plan(file), out or [], as_json)


@app.command()
def probe(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="The probe, one of `encodery show probes`.")],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A file or folder of labelled data.")],
    model: Annotated[
        list[Path],
        typer.Option("--model", "-m", help="A model folder. Repeat it to compare the best layers of several models."),
    ],
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Probe each layer of a frozen model: logistic regression from its hidden states to the tags of words.

    Each layer is compared with a baseline that does not use the model; p is the p-value of the difference. Selectivity
    is the difference from the same probe on randomly assigned tags (a control task).
    """
    from encodery.base.settings import PART_KEY, decode, parse_overrides
    from encodery.evaluate.probe_result import compare_models
    from encodery.evaluate.probes import Probe
    from encodery.model.load import load_model

    probe = decode(Probe, {PART_KEY: kind, **parse_overrides(settings or ())}, kind)
    results = {str(path): probe.measure(data, load_model(path)) for path in model}
    best = compare_models(results)
    if as_json:
        layers = {path: probed.to_dicts() for path, probed in results.items()}
        lines = {
            line["model"]: {"items": results[line["model"]].items, "layers": layers[line["model"]], "best": line}
            for line in best
        }
        print(json.dumps(lines, indent=1, ensure_ascii=False))
        return
    for path, probed in results.items():
        without = next(iter(probed.baselines), "")
        _print_probed(f"{path}, {probed.items:,} items", probed.to_dicts(), probed.main_metric, f"vs the {without}")
    if len(results) > 1:
        named = [{**line, "layer": f"{line['model']}, layer {line['layer']}"} for line in best]
        _print_probed("best layers", named, next(iter(results.values())).main_metric, "vs the first")


def _print_probed(title: str, lines: list[dict[str, Any]], main: str, to: str) -> None:
    from rich.table import Table
    from rich.text import Text

    from encodery.cli._screen import screen
    from encodery.evaluate.tables import format_p

    shown = [name for name in ("difference", "selectivity") if any(name in line for line in lines)]
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(Text(title))
    heads = {"difference": (to, "p"), "selectivity": ("selectivity",)}
    for name in (main, "95 %", *(head for column in shown for head in heads[column])):
        table.add_column(name, justify="right", no_wrap=True)
    for line in lines:
        name = f"layer {line['layer']}" if line["layer"].isdigit() else line["layer"]
        cells = [f"{line[main]:.4f}", _between(line["low"], line["high"], "{:.3f} … {:.3f}")]
        if "difference" in shown:
            interval = _between(line.get("difference_low"), line.get("difference_high"), " ({:+.3f} … {:+.3f})")
            here = "difference" in line
            cells += [f"{line['difference']:+.3f}{interval}", format_p(line["p"])] if here else ["", ""]
        if "selectivity" in shown:
            cells.append(f"{line['selectivity']:+.3f}" if "selectivity" in line else "")
        table.add_row(Text(name), *cells)
    screen().print(table, "")


def _between(low: float | None, high: float | None, form: str) -> str:
    return "" if low is None or high is None else form.format(low, high)


def _compare(plan: ComparisonPlan, out: list[Path], as_json: bool) -> None:
    from encodery.base.errors import InputError
    from encodery.cli._screen import screen
    from encodery.evaluate import compare, tables

    for path in out:
        if path.suffix not in tables.FORMATS:
            raise InputError(f"{path}: a table can be written to {', '.join(tables.FORMATS)}, not '{path.suffix}'.")
    errors = screen(stderr=True)
    comparison = compare.compare(
        plan.systems, plan.tasks, log=lambda line: errors.print(line, style="dim", markup=False)
    )
    if as_json:
        print(tables.as_json(comparison), end="")
    else:
        console = screen()
        for table in tables.rich_tables(comparison):
            console.print(table, "")
        for reason in tables.notes(comparison):
            console.print(reason, style="dim", markup=False)
    for path in out:
        tables.write(comparison, path)
