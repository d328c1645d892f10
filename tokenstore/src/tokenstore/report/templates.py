"""Templates: how the pages of reports are made from theirs, and how numbers are written on them.

A page escapes every text, so names from a store or a run are only ever text, and knows no value
that it was not given. `page.css` and `pieces.html.jinja` are for every page. What stands on a page
is its template's business.
"""

import json
from pathlib import Path
from typing import Any

import jinja2

from tokenstore.errors import UsageError


def environment(*folders: Path) -> jinja2.Environment:
    """Templates of these folders, then those that all pages share, with the filters below."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        count=lambda value: f"{value:,}",
        number=number,
        percent=percent,
        volume=volume,
        compact=compact,
    )
    return made


def refuse_missing_folder(page: Path) -> None:
    """Refuse, before any work, a page that cannot be written.

    Raises:
        UsageError: the folder that it shall lie in is not there.
    """
    if not page.resolve().parent.is_dir():
        raise UsageError(f"folder '{page.parent}' does not exist. Make it, or name another.")


def number(value: float) -> str:
    """With the places that matter: 196608 -> "196,608", 303.91 -> "303.9", 0.5 -> "0.50"."""
    return f"{value:,.{0 if value >= 10_000 else 1 if value >= 10 else 2}f}"


def percent(share: float) -> str:
    """0.0292 -> "2.9%", 18.88 -> "1,888%"; two figures at least."""
    places = 0 if share >= 0.9995 else 1 if share >= 0.00995 else 2
    return f"{100 * share:,.{places}f}%"


def volume(size: float) -> str:
    """1048240 -> "1.05 MB"; decimal units, as papers have them."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    places = 0 if unit == "bytes" else 2 if size < 10 else 1 if size < 100 else 0
    return f"{size:,.{places}f} {unit}"


def compact(value: Any) -> str:
    """Any JSON value on one line, keys sorted."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
