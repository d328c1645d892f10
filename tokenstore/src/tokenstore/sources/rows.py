"""Rows that describe images: paths, labels, splits and whatever else, from CSV, TSV or JSON lines.

A row becomes an image with the label of its label column; columns that mean nothing here are kept
as the image's metadata. Which file, and what paths are relative to, is for each source to say.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tokenstore.errors import SourceError
from tokenstore.sources.files import SPLITS

SUFFIXES = (".csv", ".tsv", ".jsonl")
PATHS = ("file_name", "path", "file", "filename", "image", "url")
LABELS = ("label", "class", "cls", "target", "category")
SPLIT = "split"
SPLIT_NAMES = {"training": "train", "validation": "val", "valid": "val", "testing": "test"}

Row = Mapping[str, Any]


class Described(NamedTuple):
    """What a row says of an image."""

    path: str
    label: str | int | None
    split: str | None
    meta: str | None


def read_rows(data: bytes, name: str) -> list[dict[str, Any]]:
    """The rows of a file; its name tells what it is.

    Raises:
        SourceError: it is no such file; names the line.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"'{name}' is no UTF-8 text: {error}.") from error
    if name.endswith(".jsonl"):
        return [_json_row(line, f"'{name}', line {n}") for n, line in _lines(text)]
    delimiter = "\t" if name.endswith(".tsv") else ","
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = []
    try:
        for row in reader:
            if None in row or None in row.values():
                raise SourceError(
                    f"'{name}', line {reader.line_num} has another number of fields than its "
                    f"first line, which names {len(reader.fieldnames or ())} columns."
                )
            rows.append(row)
    except csv.Error as error:
        raise SourceError(f"'{name}', line {reader.line_num}: {error}.") from error
    return rows


def described(
    rows: Sequence[Row], name: str, image_column: str | None, label_column: str | None
) -> list[Described]:
    """What rows say of images.

    Raises:
        SourceError: there is no column of paths, or not the one that was named.
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    path = chosen_column(columns, image_column, PATHS, name)
    if path is None:
        raise SourceError(
            f"'{name}' has the columns {', '.join(columns) or 'none'}, and none of them is "
            f"{', '.join(PATHS)}. Name the one with the paths: --image-column NAME."
        )
    label = chosen_column(columns, label_column, LABELS, name)
    split = SPLIT if SPLIT in columns else None
    used = {path, label, split}
    return [_described(row, (path, label, split), used, f"'{name}'") for row in rows]


def chosen_column(
    columns: Sequence[str], asked: str | None, known: Sequence[str], name: str
) -> str | None:
    """The column that was asked for, else the first that is known by its name.

    Raises:
        SourceError: there is no such column.
    """
    if asked is None:
        return next((column for column in known if column in columns), None)
    if asked not in columns:
        raise SourceError(f"'{name}' has no column '{asked}', but {', '.join(columns)}.")
    return asked


def as_label(value: object, where: str) -> str | int | None:
    """A label as a number or a class name; text of digits is a number.

    Raises:
        SourceError: it is neither.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdigit() else value
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise SourceError(f"{where}: the label {value!r} is neither a number nor a class name.")


def as_split(value: object, where: str) -> str | None:
    """`validation -> val`; None where nothing is said.

    Raises:
        SourceError: no split of that name.
    """
    if value is None or value == "":
        return None
    word = str(value).lower()
    split = SPLIT_NAMES.get(word, word)
    if split not in SPLITS:
        raise SourceError(f"{where}: '{value}' is no split; expected {', '.join(SPLITS)}.")
    return split


def as_meta(facts: Mapping[str, Any]) -> str | None:
    """Metadata on one line, None of nothing."""
    if not facts:
        return None
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)


def _described(
    row: Row, columns: tuple[str, str | None, str | None], used: set[str | None], name: str
) -> Described:
    path, label, split = columns
    where = f"{name}, the row of '{row.get(path)}'"
    value = row.get(path)
    if not isinstance(value, str) or not value:
        raise SourceError(f"{name} has a row without a path in column '{path}': {dict(row)}.")
    return Described(
        value,
        None if label is None else as_label(row.get(label), where),
        None if split is None else as_split(row.get(split), where),
        as_meta({name: row[name] for name in row if name not in used}),
    )


def _lines(text: str) -> list[tuple[int, str]]:
    return [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]


def _json_row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise SourceError(f"{where} is no JSON: {error}.") from error
    if not isinstance(row, dict):
        raise SourceError(f'{where} is no object, such as {{"path": ..., "label": ...}}.')
    return row
