"""Accuracy over bytes, drawn: what `pipelines.storage_tradeoff` ends with.

    python -m pipelines.accuracy_over_bytes -o accuracy --point tokens all runs/a runs/a

A point has a line it belongs to, a label, the run whose accuracy it shows, and the runs, joined by
commas, whose footprints say what has to be stored for it. It reads footprint.json and metrics.jsonl
of these runs; top-1 is the last one. It writes OUT.png and OUT.md; matplotlib draws.
"""

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from pipelines.drawing import pyplot

MARKERS = "osD^vPX*<>"


class Point(NamedTuple):
    """A point of the picture: where it belongs, what it says, and its two numbers."""

    line: str
    label: str
    images: int
    bytes: int
    top1: float


def read_point(line: str, label: str, run: str, stored: str) -> Point:
    """The numbers of a point.

    Raises:
        ClickException: a run has not ended yet.
    """
    kept = [_read(Path(name) / "footprint.json")[0] for name in stored.split(",")]
    accuracies = [
        row["val_top1"] for row in _read(Path(run) / "metrics.jsonl") if "val_top1" in row
    ]
    if not accuracies:
        raise click.ClickException(f"'{run}' has no top-1 yet: let it end first")
    images, size = sum(one["images"] for one in kept), sum(one["bytes"] for one in kept)
    return Point(line, label, images, size, accuracies[-1])


def _read(file: Path) -> list[dict[str, Any]]:
    """The JSON of a file, or of each of its lines."""
    try:
        text = file.read_text(encoding="utf-8")
        return (
            [json.loads(text)]
            if file.suffix == ".json"
            else list(map(json.loads, text.splitlines()))
        )
    except (OSError, ValueError) as error:
        raise click.ClickException(f"'{file}' cannot be read: {error}") from error


def table(points: Sequence[Point]) -> str:
    """Markdown, a row a point."""
    rows = ["| trained on | | images | kB | bytes an image | top-1 |", "|---|---|---|---|---|---|"]
    for line, label, images, size, top1 in points:
        cells = (line, label, f"{images:,}", f"{size / 1000:,.0f}", f"{size / images:,.0f}")
        rows.append(f"| {' | '.join(cells)} | {100 * top1:.1f} |")
    return "\n".join(rows) + "\n"


def draw(points: Sequence[Point], title: str, file: Path) -> None:
    """One line of a colour for each family, bytes on a logarithmic axis."""
    plots = pyplot()
    from matplotlib import ticker
    from matplotlib.patheffects import withStroke

    figure, axes = plots.subplots(figsize=(10, 6))
    for number, line in enumerate(dict.fromkeys(point.line for point in points)):
        own = sorted((p for p in points if p.line == line), key=lambda point: point.bytes)
        sizes, shares = [p.bytes for p in own], [100 * p.top1 for p in own]
        colour = f"C{number % 10}"
        axes.plot(sizes, shares, label=line, color=colour, marker=MARKERS[number % len(MARKERS)])
        for point, size, share in zip(own, sizes, shares, strict=True):
            axes.annotate(
                point.label,
                (size, share),
                fontsize=8,
                color=colour,
                xytext=(4, 4),
                textcoords="offset points",
                path_effects=[withStroke(linewidth=3, foreground="white")],
            )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ticker.EngFormatter(unit="B"))
    axes.set_xlabel("what has to be stored to train on it")
    axes.set_ylabel("top-1 on val, %")
    axes.set_title(textwrap.fill(title, 130), fontsize=8)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=100)
    plots.close(figure)


@click.command()
@click.option(
    "--point", "words", nargs=4, multiple=True, required=True, metavar="LINE LABEL RUN RUNS"
)
@click.option("--note", "notes", multiple=True, help="A line below the table.")
@click.option("--title", default="", help="Stands above the picture.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the points as JSON.")
def main(
    words: tuple[tuple[str, str, str, str], ...],
    notes: tuple[str, ...],
    title: str,
    output: Path,
    as_json: bool,
) -> None:
    """Draw accuracy over bytes, and write and print the table."""
    points = [read_point(*four) for four in words]
    text = "\n".join([table(points), *notes])
    output.with_name(f"{output.name}.md").write_text(text, encoding="utf-8")
    draw(points, title, output.with_name(f"{output.name}.png"))
    click.echo(json.dumps([point._asdict() for point in points]) if as_json else text)


if __name__ == "__main__":
    main()
