"""What an evaluation found, as lines of text for people; `--json` says the same to programs."""

from collections.abc import Iterator, Mapping
from typing import Any


def written(metrics: Mapping[str, Any]) -> str:
    """The figures, then a table for each group of them."""
    plain = {name: value for name, value in metrics.items() if not isinstance(value, Mapping)}
    parts = ["\n".join(f"{name:<18} {_figure(value)}" for name, value in plain.items())]
    for name, value in metrics.items():
        if name == "corruptions":
            parts.append("\n".join(_corruptions(value)))
        elif name == "attack":
            parts.append("\n".join(_attack(value)))
        elif isinstance(value, Mapping):
            parts.append("\n".join(_group(name, value)))
    return "\n\n".join(parts)


def _group(name: str, rows: Mapping[str, Any]) -> Iterator[str]:
    """One figure a row, and groups within it below."""
    yield name
    for row, value in rows.items():
        if isinstance(value, Mapping):
            yield from _group(f"{name} {row}", value)
        else:
            yield f"  {row:<28} {_figure(value)}"


def _corruptions(found: Mapping[str, Any]) -> Iterator[str]:
    """Kinds down, levels across."""
    levels = sorted({level for kind in found["kinds"].values() for level in kind["levels"]})
    yield f"{found['metric']:<18}" + "".join(f"{level:>9}" for level in [*levels, "mean"])
    for name, kind in found["kinds"].items():
        cells = [kind["levels"].get(level) for level in levels] + [kind["mean"]]
        yield f"{name:<18}" + "".join(f"{'' if c is None else _figure(c):>9}" for c in cells)
    yield f"{'mean':<18}" + " " * 9 * len(levels) + f"{_figure(found['mean']):>9}"


def _attack(found: Mapping[str, Any]) -> Iterator[str]:
    """Strengths down, figures across, and what they are not."""
    yield f"attack {found['name']}"
    columns = [*found["rows"][0]]
    yield "".join(f"{column:>16}" for column in columns)
    for row in found["rows"]:
        yield "".join(f"{_figure(row[column]):>16}" for column in columns)
    yield found["caution"]


def _figure(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
