"""Geometry of the drawings of a report; how they are painted is for its template.

Coordinates are those of an SVG: x to the right, y down, from the upper left corner.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 74, 26, 12, 44  # margins, for the axes' labels
BINS = 32


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at: float
    label: str


@dataclass(frozen=True)
class Bar:
    """An upright bar; `label` tells what it stands for."""

    x: float
    y: float
    width: float
    height: float
    label: str


@dataclass(frozen=True)
class Line:
    """SVG `points` of a line; `place` tells which of several things it stands for."""

    points: str
    place: int = 0


@dataclass(frozen=True)
class Chart:
    """A drawing of WIDTH x HEIGHT: lines or bars, and its axes."""

    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...] = ()
    bars: tuple[Bar, ...] = ()
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


@dataclass(frozen=True)
class _Axis:
    """Numbers from `low` to `high` onto `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Where a number lies, to a tenth of a pixel."""
        share = (value - self.low) / ((self.high - self.low) or 1)
        return round(self.start + share * (self.end - self.start), 1)


def log_log(points: Sequence[tuple[int, float]]) -> Chart | None:
    """A curve on two logarithmic axes; None without points. Both coordinates are positive."""
    if not points:
        return None
    xs, ys = [math.log10(x) for x, _ in points], [math.log10(y) for _, y in points]
    x = _Axis(0, max(*xs, 1), LEFT, WIDTH - RIGHT)
    low, high = math.floor(min(ys)), math.ceil(max(ys))
    y = _Axis(low if low < high else high - 1, high, HEIGHT - BOTTOM, TOP)
    return Chart(
        x_ticks=tuple(Tick(x.at(e), f"{10**e:,}") for e in range(int(x.high) + 1)),
        y_ticks=tuple(Tick(y.at(e), _percent(e)) for e in range(int(y.low), high + 1)),
        lines=(_line(zip(xs, ys, strict=True), x, y),),
    )


def curves(series: Mapping[int, Sequence[tuple[float, float]]], *, from_zero: bool) -> Chart | None:
    """One line for each place with points (x, y), x from 0 on; None without any point.

    Args:
        series: points by place, x ascending. A single point becomes a short dash.
        from_zero: whether the upright axis starts there, or where the values do.
    """
    series = {place: points for place, points in series.items() if len(points)}
    if not series:
        return None
    ys = [y for points in series.values() for _, y in points]
    marks = _round_numbers(0 if from_zero else min(ys), max(ys))
    low, high = min([*ys, *marks]), max([*ys, *marks])  # a single value may have no marks
    if low == high:
        low, high = low - 1, high + 1
    y = _Axis(0 if from_zero and low > 0 else low, high, HEIGHT - BOTTOM, TOP)
    x = _Axis(0, max(x for points in series.values() for x, _ in points), LEFT, WIDTH - RIGHT)
    return Chart(
        x_ticks=tuple(Tick(x.at(v), _short(v)) for v in _round_numbers(0, x.high)),
        y_ticks=tuple(Tick(y.at(v), _short(v)) for v in marks),
        lines=tuple(
            _line(_visible(points, x.high), x, y, place) for place, points in series.items()
        ),
    )


def histogram(values: NDArray[np.int64]) -> Chart | None:
    """How many of some whole numbers lie where; None where they are all the same."""
    if not len(values) or values.min() == values.max():
        return None
    step = max(1, -(-(int(values.max()) - int(values.min()) + 1) // BINS))
    low = int(values.min()) // step * step
    counts = np.bincount((values - low) // step)
    x = _Axis(low, low + step * len(counts), LEFT, WIDTH - RIGHT)
    y = _Axis(0, int(counts.max()), HEIGHT - BOTTOM, TOP)
    bars = []
    for i, count in enumerate(counts.tolist()):
        start, end, top = x.at(low + i * step), x.at(low + (i + 1) * step), y.at(count)
        label = f"{low + i * step:,} to {low + (i + 1) * step - 1:,} bytes: {count:,} images"
        bars.append(Bar(start, top, round(end - start, 1), round(y.start - top, 1), label))
    return Chart(
        x_ticks=tuple(Tick(x.at(v), f"{v:,}") for v in _whole_numbers(low, int(x.high))),
        y_ticks=tuple(Tick(y.at(v), f"{v:,}") for v in _whole_numbers(0, int(y.high))),
        bars=tuple(bars),
    )


@dataclass(frozen=True)
class Square:
    """A square that stands on a common ground; its area is what it stands for."""

    name: str
    size: float
    x: float
    y: float
    side: float


def to_scale(sizes: Sequence[tuple[str, float]]) -> tuple[Square, ...]:
    """Squares side by side whose areas are these sizes, all positive; they stand on y = WIDTH."""
    gap = 100.0  # room for the names below small squares, also behind the last one
    roots = [math.sqrt(size) for _, size in sizes]
    scale = min((WIDTH - gap * len(sizes)) / sum(roots), HEIGHT * 0.75 / max(roots))
    squares, x = [], 0.0
    for (name, size), root in zip(sizes, roots, strict=True):
        side = round(root * scale, 1)
        squares.append(Square(name, size, round(x, 1), round(WIDTH - side, 1), side))
        x += side + gap
    return tuple(squares)


def _whole_numbers(low: int, high: int) -> list[int]:
    """About five whole numbers that are easy to read: (190, 410) -> [200, 250, 300, 350, 400]."""
    return [int(value) for value in _round_numbers(low, high, least=1)]


def _round_numbers(low: float, high: float, least: float = 1e-12) -> list[float]:
    """About five numbers that are easy to read, `least` apart: (0, 0.5) -> [0, 0.1, ..., 0.5]."""
    rough = max((high - low) / 5, least)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def _line(points: Iterable[tuple[float, float]], x: _Axis, y: _Axis, place: int = 0) -> Line:
    return Line(" ".join(f"{x.at(a)},{y.at(b)}" for a, b in points), place)


def _visible(points: Sequence[tuple[float, float]], width: float) -> Sequence[tuple[float, float]]:
    """A line of one point is not seen; it gets a hundredth of the width."""
    if len(points) > 1:
        return points
    x, y = points[0]
    return [(max(x - width / 100, 0), y), (x, y)]


def _short(value: float) -> str:
    """2500000 -> "2.5M", 20000 -> "20k", 0.001 -> "0.001"."""
    for size, letter in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):g}{letter}"
    return f"{value:g}"


def _percent(exponent: int) -> str:
    """-3 -> "0.1%"."""
    return f"{10.0**exponent:.{max(-exponent - 2, 0)}%}"
