"""Shows the predictions of a fine-tuned model: metrics, confusion matrix, calibration, labels and the worst errors.

They come from `details.json`, which a fine-tuning or embedding run writes at its end; other runs have no such sections.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from encodery.base.errors import ArtifactError
from encodery.base.markup import Html, details, el, join, table
from encodery.evaluate.report.charts import Series, chart
from encodery.evaluate.report.number_format import number, percentage, plural
from encodery.evaluate.report.tiles import tiles

FILE = "details.json"
SPLITS = (
    ("test", "test rows, evaluated once"),
    ("dev", "dev rows, which also selected the weights and the temperature"),
)
MAX_CLASSES = 24
MAX_CONFUSIONS = 20
MAX_LABELS = 60
MAX_TILES = 3
MEASURES = (("probability", "confidence"), ("num_wrong", "missing or superfluous"), ("absolute_error", "error"))


def prediction_sections(run: Path) -> list[tuple[str, Html]]:
    """Return the heading and the content of each section; none if the run has no details.

    Raises `ArtifactError` for a damaged file.
    """
    content = _read(run)
    if not content:
        return []
    splits = [(split, description, content[split]) for split, description in SPLITS if split in content]
    if not splits:
        return [("Data set", _notes(content["notes"]))]
    sections = [("Metrics", join([_metrics(splits), _notes(content["notes"])]))]
    _, description, first = splits[0]
    caption = el("p", f"{plural(first['rows'], 'row')}: {description}.", class_="faint small")
    if "confusion" in first:
        matrix = _confusion_matrix(first["labels"], first["confusion"])
        sections.append(("Confusion matrix", join([caption, matrix])))
        sections.append(("Calibration", _calibration(first["reliability"], description)))
    if first.get("per_label"):
        sections.append(("Labels", join([caption, _labels(first["per_label"])])))
    if first["errors"]:
        sections.append(("Worst errors", join([caption, _errors(first["errors"])])))
    return sections


def prediction_tiles(run: Path, metrics: Mapping[str, Any]) -> Html:
    """Return the tiles of a fine-tuned model: its first metrics, its speed and its size.

    Raises `ArtifactError` for a damaged file.
    """
    content = _read(run)
    split = next((split for split, _ in SPLITS if split in content), "")
    values = list(content.get(split, {}).get("metrics", {}).items())[:MAX_TILES]
    return tiles(
        [
            *((number(value), f"{name}, {split} rows") for name, value in values),
            (number(metrics.get("samples_per_s")), "rows per second"),
            (number(metrics.get("parameters")), "parameters"),
        ]
    )


def _read(run: Path) -> dict[str, Any]:
    """Return the details of a run; empty if there are none."""
    file = run / FILE
    if not file.is_file():
        return {}
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{file}: damaged: {error}") from error
    return content


def _metrics(splits: list[tuple[str, str, dict[str, Any]]]) -> Html:
    """Return a table with a row per metric and a column per split."""
    names = list(splits[0][2]["metrics"])
    rows = [(name, *(number(content["metrics"].get(name)) for _, _, content in splits)) for name in names]
    head = ("", *(f"{split}, {plural(content['rows'], 'row')}" for split, _, content in splits))
    return table(head, rows, numeric=range(1, len(splits) + 1))


def _notes(notes: list[str]) -> Html:
    return details("Notes on the data set", el("ul", *(el("li", note) for note in notes)))


def _confusion_matrix(labels: list[str], matrix: list[list[int]]) -> Html:
    """Return the matrix, shaded by the fraction of its row; if there are many classes, the most frequent confusions."""
    if len(labels) <= MAX_CLASSES:
        rows = [
            (
                label,
                *(_cell(count, sum(counts), true == predicted) for predicted, count in enumerate(counts)),
                sum(counts),
            )
            for true, (label, counts) in enumerate(zip(labels, matrix, strict=True))
        ]
        return table(("true \\ predicted", *labels, "rows"), rows, numeric=range(1, len(labels) + 2))
    confusions = [
        (count, labels[true], labels[predicted], sum(counts))
        for true, counts in enumerate(matrix)
        for predicted, count in enumerate(counts)
        if count and true != predicted
    ]
    largest = sorted(confusions, key=lambda entry: (-entry[0], entry[1], entry[2]))[:MAX_CONFUSIONS]
    return table(
        ("true", "predicted", "rows", "of"),
        [(true, predicted, count, total) for count, true, predicted, total in largest],
        numeric=(2, 3),
    )


def _cell(count: int, total: int, correct: bool) -> Html:
    percent = round(100 * count / total) if total else 0
    colour = "var(--s1)" if correct else "var(--s2)"
    shade = f"background: color-mix(in srgb, {colour} {percent // 2}%, transparent); padding: 0 .35em"
    return el("span", count, style=shade if count else None, title=f"{percent} % of the row")


def _calibration(reliability: dict[str, Any], description: str) -> Html:
    """Return the reliability diagram and its table."""
    model = list(zip(reliability["confidence"], reliability["accuracy"], strict=True))
    diagram = chart(
        "accuracy by confidence",
        [
            Series("perfectly calibrated", [(0.0, 0.0), (1.0, 1.0)], "s3"),
            Series("this model", model, "s1", dots=True),
        ],
        "confidence (probability of the prediction)",
        from_zero=True,
    )
    explanation = el(
        "p",
        f"On {description}. Each point is a group of predictions with similar confidence; its height is the fraction "
        "of them that is correct. The mean distance from the diagonal (expected calibration error) is "
        f"{percentage(reliability['error'])}.",
    )
    rows = [
        (percentage(confidence), percentage(accuracy), count)
        for (confidence, accuracy), count in zip(model, reliability["count"], strict=True)
    ]
    as_table = details("As a table", table(("confidence", "accuracy", "rows"), rows, numeric=(0, 1, 2)))
    return join([explanation, el("div", diagram, class_="charts"), as_table])


def _labels(labels: list[dict[str, Any]]) -> Html:
    """Return precision, recall and F1 of the most frequent labels."""
    rows = [
        (
            entry["label"],
            entry["expected"],
            entry["predicted"],
            percentage(entry["correct"] / entry["predicted"]) if entry["predicted"] else "",
            percentage(entry["correct"] / entry["expected"]) if entry["expected"] else "",
            percentage(2 * entry["correct"] / (entry["expected"] + entry["predicted"])),
        )
        for entry in labels[:MAX_LABELS]
    ]
    rest = len(labels) - len(rows)
    return join(
        [
            table(("label", "true", "predicted", "precision", "recall", "F1"), rows, numeric=range(1, 6)),
            el("p", f"and {plural(rest, 'rarer label')}", class_="faint small") if rest else "",
        ]
    )


def _errors(errors: list[dict[str, Any]]) -> Html:
    name, heading = next((name, heading) for name, heading in MEASURES if name in errors[0])
    rows = [
        (
            join([el("p", text) for text in error["text"]]),
            error["expected"],
            error["prediction"] or "(none)",
            percentage(error[name]) if name == "probability" else number(error[name]),
        )
        for error in errors
    ]
    return table(("text", "true", "predicted", heading), rows, numeric=(3,))
