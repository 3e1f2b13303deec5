"""Draws line charts as inline SVG, with the colours of the page's style sheet for light, dark and print."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from encodery.base.markup import Html, el, text
from encodery.evaluate.report.number_format import number

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 12, 40
MAX_POINTS = 400
Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """Points (x, y) in order of x. `style` is a class of the style sheet; `dots` adds a marker at each point."""

    name: str
    points: Sequence[Point]
    style: str = "s1"
    dots: bool = False


def downsample(points: Sequence[Point], max_points: int = MAX_POINTS) -> list[Point]:
    """Return up to `max_points` points, each the mean of a group of neighbours. Non-finite points are dropped."""
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    group_size = -(-len(finite) // max_points) if finite else 1
    groups = [finite[i : i + group_size] for i in range(0, len(finite), group_size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def smooth(points: Sequence[Point], span: float = 0.02) -> list[Point]:
    """Return the exponential moving average, with bias correction, over about the fraction `span` of the points."""
    decay = 1 - 1 / max(1.0, span * len(points))
    total = weight = 0.0
    averages = []
    for x, y in points:
        if math.isfinite(y):
            total, weight = decay * total + (1 - decay) * y, decay * weight + (1 - decay)
            averages.append((x, total / weight))
    return averages


def ticks(low: float, high: float, target: int = 5) -> list[float]:
    """Return about `target` round numbers between `low` and `high`, both included."""
    if not high > low:
        return [low]
    raw = (high - low) / target
    step = 10 ** math.floor(math.log10(raw))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_labels(values: Sequence[float]) -> list[str]:
    """Return the labels of one axis, all in the same format: 0.1 0.15 0.2 · 5e-4 1e-3 · 10 k 20 k."""
    largest = max(map(abs, values), default=0.0)
    if 0 < largest < 0.01:
        return ["0" if value == 0 else f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-") for value in values]
    scale, unit = next(((s, u) for s, u in ((1e9, " G"), (1e6, " M"), (1e4, " k")) if largest >= s), (1.0, ""))
    scale = 1e3 if unit == " k" else scale
    scaled = [value / scale for value in values]
    decimals = next((d for d in range(6) if all(abs(v - round(v, d)) < 1e-9 for v in scaled)), 6)
    return [f"{value:.{decimals}f}{unit if value else ''}" for value in scaled]


def chart(title: str, series: Sequence[Series], x_name: str, from_zero: bool = False, clip_peaks: bool = False) -> Html:
    """Return a line chart, or a note that nothing was recorded if there are fewer than two points.

    Args:
        title: the caption; several series get a legend next to it.
        series: the lines.
        x_name: the label of the x axis.
        from_zero: whether the y axis includes zero.
        clip_peaks: whether values are clipped if the maximum is above three times the 98th percentile.
    """
    lines = [Series(s.name, downsample(s.points), s.style, s.dots) for s in series]
    points = [point for line in lines for point in line.points]
    if len(points) < 2:
        return el("figure", el("figcaption", title), el("p", "Not recorded.", class_="faint"))
    xs, ys = [x for x, _ in points], sorted(y for _, y in points)
    p98 = ys[int(0.98 * (len(ys) - 1))]
    if clip_peaks and ys[-1] > 3 * p98 > 0:
        title += ", peaks clipped"
        lines = [Series(s.name, [(x, min(y, 1.5 * p98)) for x, y in s.points], s.style, s.dots) for s in lines]
        ys[-1] = 1.5 * p98
    area = _PlotArea(min(xs), max(xs), *_y_range(ys[0], ys[-1], from_zero))
    elements = [*_axes(area, x_name), *(element for line in lines for element in _line(area, line))]
    label = f"{title}: between {number(ys[0])} and {number(ys[-1])}"
    svg = el("svg", *elements, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label)
    legend = [el("span", s.name, class_=f"key {s.style}") for s in lines if s.points] if len(lines) > 1 else []
    return el("figure", el("figcaption", title, *legend), svg)


@dataclass(frozen=True)
class _PlotArea:
    """The ranges of both axes."""

    x0: float
    x1: float
    y0: float
    y1: float

    def pixels(self, point: Point) -> tuple[float, float]:
        """Return the coordinates of a point in the SVG."""
        width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        x = LEFT + width * (point[0] - self.x0) / ((self.x1 - self.x0) or 1)
        return x, TOP + height * (1 - (point[1] - self.y0) / ((self.y1 - self.y0) or 1))


def _y_range(low: float, high: float, from_zero: bool) -> tuple[float, float]:
    """Return the limits of the y axis, with a margin around the values."""
    if from_zero:
        low = min(low, 0.0)
    if high == low:
        margin = abs(high) * 0.5 or 1.0
        return (low if from_zero else low - margin), high + margin
    margin = 0.04 * (high - low)
    return (low if from_zero and low == 0 else low - margin), high + margin


def _axes(area: _PlotArea, x_name: str) -> list[Html]:
    """Return the horizontal grid lines, the tick labels of both axes and the x axis with its name."""
    elements = []
    y_ticks = ticks(area.y0, area.y1)
    for tick, label in zip(y_ticks, tick_labels(y_ticks), strict=True):
        _, y = area.pixels((area.x0, tick))
        elements.append(el("line", x1=LEFT, x2=WIDTH - RIGHT, y1=f"{y:.1f}", y2=f"{y:.1f}", class_="grid"))
        elements.append(el("text", label, x=LEFT - 7, y=f"{y + 4:.1f}", text_anchor="end"))
    x_ticks = ticks(area.x0, area.x1, target=4)
    for tick, label in zip(x_ticks, tick_labels(x_ticks), strict=True):
        x, _ = area.pixels((tick, area.y0))
        elements.append(el("text", label, x=f"{x:.1f}", y=HEIGHT - BOTTOM + 17, text_anchor="middle"))
    base = HEIGHT - BOTTOM
    elements.append(el("line", x1=LEFT, x2=WIDTH - RIGHT, y1=base, y2=base, class_="axis"))
    elements.append(el("text", x_name, x=WIDTH - RIGHT, y=HEIGHT - 5, text_anchor="end", class_="name"))
    return elements


def _line(area: _PlotArea, series: Series) -> list[Html]:
    """Return a series as a polyline, with a marker and a tooltip per point if it has dots."""
    coordinates = [area.pixels(point) for point in series.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in coordinates)
    elements = [el("polyline", points=path, class_=f"line {series.style}")]
    if series.dots:
        for (x, y), (position, value) in zip(coordinates, series.points, strict=True):
            tooltip = el("title", text(f"{number(value, 4)} at {number(position)}"))
            elements.append(el("circle", tooltip, cx=f"{x:.1f}", cy=f"{y:.1f}", r=3, class_=f"dot {series.style}"))
    return elements
