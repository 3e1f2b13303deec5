"""Curves as inline SVG: no library, no script, colours from the page's style so that light, dark and print agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from encodery.base.markup import Html, el, text
from encodery.evaluate.report.number_format import number

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 12, 40
MOST_POINTS = 400
Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """Points (x, y) in order of x; `style` is a class of the style sheet; `dots` marks each point."""

    name: str
    points: Sequence[Point]
    style: str = "s1"
    dots: bool = False


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most `most` points: means of neighbours, with finite values only."""
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    width = -(-len(finite) // most) if finite else 1
    groups = [finite[i : i + width] for i in range(0, len(finite), width)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def smoothed(points: Sequence[Point], span: float = 0.02) -> list[Point]:
    """A running mean that weighs the last `span` of the points, free of the start's bias."""
    keep = 1 - 1 / max(1.0, span * len(points))
    total = weight = 0.0
    found = []
    for x, y in points:
        if math.isfinite(y):
            total, weight = keep * total + (1 - keep) * y, keep * weight + (1 - keep)
            found.append((x, total / weight))
    return found


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from at or above `low` to at or below `high`."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    step = 10 ** math.floor(math.log10(raw))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def labels(values: Sequence[float]) -> list[str]:
    """The ticks of one axis as texts of one form: 0.1 0.15 0.2 · 5e-4 1e-3 · 10 k 20 k."""
    largest = max(map(abs, values), default=0.0)
    if 0 < largest < 0.01:
        return ["0" if value == 0 else f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-") for value in values]
    scale, unit = next(((s, u) for s, u in ((1e9, " G"), (1e6, " M"), (1e4, " k")) if largest >= s), (1.0, ""))
    scale = 1e3 if unit == " k" else scale
    scaled = [value / scale for value in values]
    decimals = next((d for d in range(6) if all(abs(v - round(v, d)) < 1e-9 for v in scaled)), 6)
    return [f"{value:.{decimals}f}{unit if value else ''}" for value in scaled]


def chart(title: str, series: Sequence[Series], x_name: str, from_zero: bool = False, cut: bool = False) -> Html:
    """A figure with axes and, for several series, a legend. Without points it says so. `cut`: peaks above three times
    the range of nearly all points leave the frame, so that the rest can be seen."""
    drawn = [Series(s.name, thinned(s.points), s.style, s.dots) for s in series]
    points = [point for s in drawn for point in s.points]
    if len(points) < 2:
        return el("figure", el("figcaption", title), el("p", "Not recorded.", class_="faint"))
    xs, ys = [x for x, _ in points], sorted(y for _, y in points)
    usual = ys[int(0.98 * (len(ys) - 1))]
    if cut and ys[-1] > 3 * usual > 0:
        title += ", peaks cut"
        drawn = [Series(s.name, [(x, min(y, 1.5 * usual)) for x, y in s.points], s.style, s.dots) for s in drawn]
        ys[-1] = 1.5 * usual
    frame = _Frame(min(xs), max(xs), *_span(ys[0], ys[-1], from_zero))
    marks = [*_grid(frame, x_name), *(mark for s in drawn for mark in _marks(frame, s))]
    label = f"{title}: between {number(ys[0])} and {number(ys[-1])}"
    svg = el("svg", *marks, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label)
    legend = [el("span", s.name, class_=f"key {s.style}") for s in drawn if s.points] if len(drawn) > 1 else []
    return el("figure", el("figcaption", title, *legend), svg)


@dataclass(frozen=True)
class _Frame:
    x0: float
    x1: float
    y0: float
    y1: float

    def at(self, point: Point) -> tuple[float, float]:
        wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        x = LEFT + wide * (point[0] - self.x0) / ((self.x1 - self.x0) or 1)
        return x, TOP + high * (1 - (point[1] - self.y0) / ((self.y1 - self.y0) or 1))


def _span(low: float, high: float, from_zero: bool) -> tuple[float, float]:
    if from_zero:
        low = min(low, 0.0)
    if high == low:
        pad = abs(high) * 0.5 or 1.0
        return (low if from_zero else low - pad), high + pad
    pad = 0.04 * (high - low)
    return (low if from_zero and low == 0 else low - pad), high + pad


def _grid(frame: _Frame, x_name: str) -> list[Html]:
    marks = []
    places = ticks(frame.y0, frame.y1)
    for y, label in zip(places, labels(places), strict=True):
        _, at = frame.at((frame.x0, y))
        marks.append(el("line", x1=LEFT, x2=WIDTH - RIGHT, y1=f"{at:.1f}", y2=f"{at:.1f}", class_="grid"))
        marks.append(el("text", label, x=LEFT - 7, y=f"{at + 4:.1f}", text_anchor="end"))
    places = ticks(frame.x0, frame.x1, about=4)
    for x, label in zip(places, labels(places), strict=True):
        at, _ = frame.at((x, frame.y0))
        marks.append(el("text", label, x=f"{at:.1f}", y=HEIGHT - BOTTOM + 17, text_anchor="middle"))
    base = HEIGHT - BOTTOM
    marks.append(el("line", x1=LEFT, x2=WIDTH - RIGHT, y1=base, y2=base, class_="axis"))
    marks.append(el("text", x_name, x=WIDTH - RIGHT, y=HEIGHT - 5, text_anchor="end", class_="name"))
    return marks


def _marks(frame: _Frame, series: Series) -> list[Html]:
    placed = [frame.at(point) for point in series.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    marks = [el("polyline", points=path, class_=f"line {series.style}")]
    if series.dots:
        for (x, y), (at, value) in zip(placed, series.points, strict=True):
            tip = el("title", text(f"{number(value, 4)} at {number(at)}"))
            marks.append(el("circle", tip, cx=f"{x:.1f}", cy=f"{y:.1f}", r=3, class_=f"dot {series.style}"))
    return marks
