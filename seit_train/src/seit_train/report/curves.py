"""Curves of several runs on the same axes, from their metrics.jsonl.

The axis to the right counts images, not steps or epochs: runs of other batch sizes and of other
shares of a split stand side by side then. Geometry only; how it is painted is for the template.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from seit_train.report.records import RunRecord
from tokenstore.report.charts import Chart, curves

POINTS = 300  # of a line; more are not seen, so neighbours are averaged
KNOWN = {
    "loss": "training loss",
    "val_loss": "validation loss",
    "val_top1": "validation top-1",
    "val_miou": "validation mIoU",
    "val_gain": "share of the unigram entropy saved",
    "lr": "learning rate",
    "images_per_second": "images per second",
}
FROM_ITS_LOWEST = ("loss", "norm", "unigram")  # names of what has no meaning at zero


@dataclass(frozen=True)
class Curve:
    """One quantity of all runs that have it.

    Attributes:
        name: as metrics.jsonl calls it.
        title: as people call it.
        chart: the drawing; the place of a line is the run's.
        main: whether everybody wants to see it.
        dropped: values that were not finite and are left out.
        last: its value at each run's end, by the run's place.
    """

    name: str
    title: str
    chart: Chart
    main: bool
    dropped: int
    last: dict[int, float]


def draw_curves(records: Sequence[RunRecord]) -> tuple[Curve, ...]:
    """Every quantity that some run has written, the well-known ones first."""
    lines = [line for record in records for line in record.lines]
    written = [name for line in lines for name in line if "/" not in name]  # no single classes
    others = sorted(set(written) - set(KNOWN) - {"step", "epoch"})
    tasks = list(dict.fromkeys(record.run.config.task for record in records))
    drawn = []
    for name in (*KNOWN, *others):
        # Losses of two tasks are no more comparable than metres and seconds.
        apart = len(tasks) > 1 and any(word in name for word in FROM_ITS_LOWEST)
        drawn += [_curve(name, records, task) for task in (tasks if apart else [None])]
    return tuple(curve for curve in drawn if curve is not None)


def _curve(name: str, records: Sequence[RunRecord], task: str | None) -> Curve | None:
    series, dropped = {}, 0
    for place, record in enumerate(records):
        if task is not None and record.run.config.task != task:
            continue
        batch = record.run.config.batch_size
        values = [(line["step"], line[name]) for line in record.lines if name in line]
        points = [(step * batch, y) for step, y in values if step is not None and y is not None]
        series[place] = thinned(points)
        dropped += len(values) - len(points)
    chart = curves(series, from_zero=not any(word in name for word in FROM_ITS_LOWEST))
    if chart is None:
        return None
    last = {place: points[-1][1] for place, points in series.items() if points}
    title = KNOWN.get(name, name) + (f" ({task})" if task else "")
    return Curve(name, title, chart, name in KNOWN, dropped, last)


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most POINTS of them: means of neighbours, each at the last of its places."""
    width = -(-len(points) // POINTS)
    if width <= 1:
        return list(points)
    groups = (points[start : start + width] for start in range(0, len(points), width))
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]
