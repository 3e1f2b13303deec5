"""Sections on a fine-tuned model: its figures, confusions, calibration, labels, the worst errors.

Drawn from `details.json`, which the run writes at its end; a run without one has none of these sections.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from encodery.base.errors import ArtifactError
from encodery.base.markup import Html, details, el, join, table
from encodery.evaluate.report.charts import Series, chart
from encodery.evaluate.report.number_format import number, plural, share

FILE = "details.json"
OF_PRETRAINING = ("Figures", "Fills", "Neighbours", "Search", "Text", "Tokenizer")
SPLITS = (("test", "test rows, looked at once"), ("dev", "dev rows, by which weights and temperature were chosen"))
MOST_CLASSES = 24
CONFUSED = 20
MOST_LABELS = 60
MEASURES = (("probability", "confidence"), ("num_wrong", "missing or superfluous"), ("absolute_error", "error"))


def prediction_sections(run: Path) -> list[tuple[str, Html]]:
    """Name and body of each section. Raises `ArtifactError` for a damaged file."""
    found = _read(run)
    if not found:
        return []
    splits = [(split, said, found[split]) for split, said in SPLITS if split in found]
    if not splits:
        return [("Data", _notes(found["notes"]))]
    made = [("Answers", join([_figures(splits), _notes(found["notes"])]))]
    _, said, first = splits[0]
    if "confusion" in first:
        made.append(("Confusions", join([_caption(first, said), _confusion(first["labels"], first["confusion"])])))
        made.append(("Calibration", _calibration(first["reliability"], said)))
    if first.get("per_label"):
        made.append(("Labels", join([_caption(first, said), _labels(first["per_label"])])))
    if first["errors"]:
        made.append(("Errors", join([_caption(first, said), _errors(first["errors"])])))
    return made


def tiles(run: Path, figures: dict[str, Any]) -> Html:
    """The figures one asks for first."""
    found = _read(run)
    split = next((split for split, _ in SPLITS if split in found), "")
    told = [
        (number(value), f"{name}, {split} rows")
        for name, value in list(found.get(split, {}).get("metrics", {}).items())[:3]
    ]
    told += [
        (number(figures.get(name)), said)
        for name, said in (("samples_per_s", "rows a second"), ("parameters", "parameters"))
    ]
    return el(
        "div", *(el("div", el("b", value), el("span", said), class_="tile") for value, said in told), class_="tiles"
    )


def _read(run: Path) -> dict[str, Any]:
    """What the run wrote, nothing where it wrote nothing."""
    file = run / FILE
    if not file.is_file():
        return {}
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{file}: damaged: {error}") from error
    return found


def _figures(splits: list[tuple[str, str, dict[str, Any]]]) -> Html:
    names = list(splits[0][2]["metrics"])
    rows = [(name, *(number(found["metrics"].get(name)) for _, _, found in splits)) for name in names]
    head = ("", *(f"{split}, {plural(found['rows'], 'row')}" for split, _, found in splits))
    return table(head, rows, numeric=range(1, len(splits) + 1))


def _notes(notes: list[str]) -> Html:
    return details("What was found in the data", el("ul", *(el("li", note) for note in notes)))


def _caption(found: dict[str, Any], said: str) -> Html:
    return el("p", f"{plural(found['rows'], 'row')}: {said}.", class_="faint small")


def _confusion(labels: list[str], matrix: list[list[int]]) -> Html:
    """The whole matrix where it fits, shaded by the share of its row; else the commonest confusions."""
    if len(labels) <= MOST_CLASSES:
        rows = [
            (label, *(_cell(count, sum(counts), place == at) for at, count in enumerate(counts)), sum(counts))
            for place, (label, counts) in enumerate(zip(labels, matrix, strict=True))
        ]
        return table(("true \\ given", *labels, "rows"), rows, numeric=range(1, len(labels) + 2))
    pairs = [
        (count, labels[true], labels[given], sum(counts))
        for true, counts in enumerate(matrix)
        for given, count in enumerate(counts)
        if count and true != given
    ]
    worst = sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2]))[:CONFUSED]
    return table(
        ("true", "given", "rows", "of"), [(true, given, count, of) for count, true, given, of in worst], numeric=(2, 3)
    )


def _cell(count: int, total: int, right: bool) -> Html:
    part = round(100 * count / total) if total else 0
    colour = "var(--s1)" if right else "var(--s2)"
    shade = f"background: color-mix(in srgb, {colour} {part // 2}%, transparent); padding: 0 .35em" if count else None
    return el("span", count, style=shade, title=f"{part} % of the row")


def _calibration(found: dict[str, Any], said: str) -> Html:
    ideal = [(0.0, 0.0), (1.0, 1.0)]
    drawn = chart(
        "right against sure",
        [
            Series("perfectly calibrated", ideal, "s3"),
            Series("this model", list(zip(found["confidence"], found["accuracy"], strict=True)), "s1", dots=True),
        ],
        "probability given to the answer",
        from_zero=True,
    )
    told = el(
        "p",
        f"On {said}. Of the answers given with about the same probability, so many were right. The mean distance from "
        f"the diagonal (expected calibration error) is {share(found['error'])}.",
    )
    rows = [
        (share(sure), share(right), count)
        for sure, right, count in zip(found["confidence"], found["accuracy"], found["count"], strict=True)
    ]
    return join(
        [
            told,
            el("div", drawn, class_="charts"),
            details("as a table", table(("sure", "right", "rows"), rows, numeric=(0, 1, 2))),
        ]
    )


def _labels(each: list[dict[str, Any]]) -> Html:
    """Precision, recall and F1 of each label; those of the commonest where there are very many."""
    rows = [
        (
            one["label"],
            one["expected"],
            one["predicted"],
            share(one["correct"] / one["predicted"]) if one["predicted"] else "",
            share(one["correct"] / one["expected"]) if one["expected"] else "",
            share(2 * one["correct"] / (one["expected"] + one["predicted"])),
        )
        for one in each[:MOST_LABELS]
    ]
    left = len(each) - len(rows)
    return join(
        [
            table(("label", "true", "given", "precision", "recall", "F1"), rows, numeric=range(1, 6)),
            el("p", f"and {plural(left, 'rarer label')}", class_="faint small") if left else "",
        ]
    )


def _errors(errors: list[dict[str, Any]]) -> Html:
    name, heading = next((name, heading) for name, heading in MEASURES if name in errors[0])
    rows = [
        (
            join([el("p", text) for text in one["text"]]),
            one["expected"],
            one["prediction"] or "(nothing)",
            share(one[name]) if name == "probability" else number(one[name]),
        )
        for one in errors
    ]
    return table(("text", "true", "given", heading), rows, numeric=(3,))
