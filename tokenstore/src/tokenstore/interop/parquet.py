"""parquet: a row an image; a column of ids, and columns `label`, `key`, `meta`, `view` if any.

Ids are a list or fixed-size list of whole numbers a row, or nested lists; the column is `ids`, or
else the only one of that type. The grid is that of nested fixed-size lists, or `grid` in the file's
metadata (`[32, 32]`), or --grid, or a square. Labels are numbers or strings, keys strings, `meta`
JSON text, `view` numbers. Other columns are left out, by name. An export is SPLIT.parquet with
fixed-size lists and zstd.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray

from tokenstore.columns import json_line
from tokenstore.errors import SourceError
from tokenstore.interop.arrays import square
from tokenstore.interop.base import CHUNK, Chunk, Format, Grid, ImportRequest, Incoming, Outgoing
from tokenstore.interop.card import TokenCard, read_card
from tokenstore.interop.codebook import NAME, codebook_of, write_codebook
from tokenstore.interop.layout import split_files
from tokenstore.reader import Store

SUFFIXES = (".parquet", ".pq")
IDS = "ids"
KEPT = ("label", "key", "meta", "view")
ROW_GROUP = 8 * CHUNK
UNREADABLE = (pyarrow.ArrowException, OSError, ValueError)


class Parquet(Format):
    """Parquet files; see above."""

    name = "parquet"

    @classmethod
    def open(cls, request: ImportRequest) -> Incoming:
        """See `Format.open`."""
        place = request.place
        folder = place if place.is_dir() else place.parent
        card = read_card(folder)
        files = split_files(place, SUFFIXES, request.split, card)
        everything = [file for some in files.values() for file in some]
        first = _open(everything[0])
        grid = request.grid or card.grid or _grid(first, everything[0])
        names = set(first.schema_arrow.names) - {_ids_column(first.schema_arrow, place), *KEPT}
        return Incoming(
            grid=grid,
            splits={split: _reader(some, grid) for split, some in files.items()},
            card=card,
            codebook=codebook_of(request.codebook, folder / NAME),
            images=sum(_open(file).metadata.num_rows for file in everything),
            notes=[f"column '{name}' is left out" for name in sorted(names)],
        )

    @classmethod
    def export(cls, outgoing: Outgoing) -> None:
        """See `Format.export`."""
        for split in outgoing.splits:
            _write_split(outgoing, split)
        write_codebook(outgoing.folder, outgoing.store.vocabulary)
        TokenCard.of(outgoing.store.manifest, outgoing.splits).write(outgoing.folder)


def _open(file: Path) -> pyarrow.parquet.ParquetFile:
    try:
        return pyarrow.parquet.ParquetFile(file)
    except UNREADABLE as error:
        reason = str(error).splitlines()[0]
        raise SourceError(
            f"'{file}' is no whole parquet file ({reason}). Fetch it anew."
        ) from error


def _ids_column(schema: pyarrow.Schema, where: Path) -> str:
    """The column that holds ids."""
    lists = [column.name for column in schema if _depth(column.type)]
    if IDS in lists or len(lists) == 1:
        return IDS if IDS in lists else lists[0]
    raise SourceError(
        f"'{where}' has {len(lists)} columns of lists of whole numbers "
        f"({', '.join(lists) or 'its columns: ' + ', '.join(schema.names)}), expected one, or one "
        f"called '{IDS}'. Rename it."
    )


def _depth(kind: pyarrow.DataType) -> int:
    """How deep whole numbers are nested in lists; 0 for any other type."""
    depth = 0
    while _is_list(kind):
        kind, depth = kind.value_type, depth + 1
    return depth if pyarrow.types.is_integer(kind) else 0


def _is_list(kind: pyarrow.DataType) -> bool:
    types = pyarrow.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _grid(opened: pyarrow.parquet.ParquetFile, file: Path) -> Grid:
    """The shape of one image's ids, as type, metadata or first row tell."""
    schema = opened.schema_arrow
    told = (schema.metadata or {}).get(b"grid")
    if told is not None:
        try:
            grid = tuple(int(side) for side in json.loads(told))
        except (ValueError, TypeError) as error:
            raise SourceError(
                f"'{file}' says its grid is {told[:60]!r}, expected such as [32, 32]. "
                "Say --grid HxW."
            ) from error
        if len(grid) in (2, 3) and all(0 < side <= 1 << 16 for side in grid):
            return grid
        raise SourceError(f"'{file}' says its grid is {list(grid)}. Say --grid HxW.")
    column = _ids_column(schema, file)
    try:
        row = next(opened.iter_batches(1, columns=[column]), None)
    except UNREADABLE as error:
        raise SourceError(f"'{file}' cannot be read ({error}). Fetch it anew.") from error
    if row is None or not len(row):
        raise SourceError(f"'{file}' has no rows. Leave it out.")
    first: Any = row.column(0)[0].as_py()
    shape: list[int] = []
    while isinstance(first, list) and first:
        shape.append(len(first))
        first = first[0]
    if len(shape) in (2, 3):
        return tuple(shape)
    return square(prod(shape) if shape else 0, f"'{file}', row 0")


def _reader(files: Sequence[Path], grid: Grid) -> Callable[[], Iterator[Chunk]]:
    def chunks() -> Iterator[Chunk]:
        for file in files:
            opened = _open(file)
            column = _ids_column(opened.schema_arrow, file)
            kept = [name for name in KEPT if name in opened.schema_arrow.names]
            first = 0
            try:
                for batch in opened.iter_batches(CHUNK, columns=[column, *kept]):
                    yield _chunk(batch, (file, first), column, grid)
                    first += batch.num_rows
            except UNREADABLE as error:
                reason = str(error).splitlines()[0]
                raise SourceError(
                    f"'{file}' cannot be read behind row {first} ({reason}). Fetch it anew."
                ) from error

    return chunks


def _chunk(batch: pyarrow.RecordBatch, place: tuple[Path, int], column: str, grid: Grid) -> Chunk:
    file, first = place

    def where(i: int) -> str:
        return f"'{file}', row {first + i}"

    def values(name: str) -> pyarrow.Array | None:
        """A column without nulls, or None where there is none."""
        if name not in batch.schema.names:
            return None
        found = batch.column(name)
        if found.null_count:
            gap = int(np.flatnonzero(found.is_null().to_numpy(zero_copy_only=False))[0])
            raise SourceError(f"{where(gap)} has no '{name}'. Fill the gap, or leave the row out.")
        return found

    views = values("view")
    meta = values("meta")
    keys = values("key")
    return Chunk(
        ids=_ids(values(column), grid, where),
        where=where,
        labels=_labels(values("label"), where),
        keys=None if keys is None else [str(key) for key in keys.to_pylist()],
        meta=None if meta is None else [_object(text, where(i)) for i, text in enumerate(meta)],
        views=None if views is None else _small(views, where),
    )


def _ids(column: pyarrow.Array, grid: Grid, where: Callable[[int], str]) -> NDArray[Any]:
    """Lists of any depth as [n, *grid]."""
    ends = np.arange(len(column) + 1)
    while _is_list(column.type):
        inner = column.flatten()
        if column.null_count:
            raise SourceError(f"{where(0)} and others: a list of ids is missing. Fill the gap.")
        if pyarrow.types.is_fixed_size_list(column.type):
            offsets = np.arange(len(column) + 1) * column.type.list_size
        else:
            offsets = column.offsets.to_numpy().astype(np.int64)
            offsets = offsets - offsets[0]
        ends, column = offsets[ends], inner
    wrong = np.flatnonzero(np.diff(ends) != prod(grid))
    if len(wrong):
        raise SourceError(
            f"{where(int(wrong[0]))} has {np.diff(ends)[wrong[0]]} ids, expected {prod(grid)} "
            f"for a grid {'x'.join(map(str, grid))}. Repair it, or say --grid as ids lie."
        )
    if column.null_count:
        gap = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise SourceError(f"{where(gap // prod(grid))} has an id that is null. Repair it.")
    return np.asarray(column.to_numpy(zero_copy_only=False)).reshape(-1, *grid)


def _labels(column: pyarrow.Array | None, where: Callable[[int], str]) -> Any:
    if column is None:
        return None
    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pyarrow.types.is_integer(column.type):
        return column.to_numpy(zero_copy_only=False).astype(np.int64)
    if pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type):
        return column.to_pylist()
    raise SourceError(
        f"{where(0)}: labels are {column.type}, expected whole numbers or class names."
    )


def _object(text: Any, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text.as_py())
    except (ValueError, TypeError, RecursionError) as error:
        raise SourceError(f"{where}: 'meta' is no JSON text ({error}). Repair it.") from error
    if not isinstance(found, dict):
        raise SourceError(f"{where}: 'meta' holds a {type(found).__name__}, expected an object.")
    return found


def _small(column: pyarrow.Array, where: Callable[[int], str]) -> NDArray[np.uint16]:
    numbers: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    if numbers.dtype.kind not in "iu" or numbers.min() < 0 or numbers.max() >= 1 << 16:
        raise SourceError(f"{where(0)} and others: views are no numbers from 0 to 65535.")
    return numbers.astype(np.uint16)


def _schema(store: Store, split: str, dtype: np.dtype[Any]) -> pyarrow.Schema:
    grid, columns = store.manifest.grid, store[split].columns
    ids = pyarrow.list_(pyarrow.field("element", pyarrow.from_numpy_dtype(dtype)), prod(grid))
    fields = [pyarrow.field(IDS, ids, nullable=False)]
    kinds = {"label": pyarrow.int32(), "key": pyarrow.string(), "meta": pyarrow.string()}
    kinds["view"] = pyarrow.uint16()
    fields += [pyarrow.field(name, kinds[name]) for name in KEPT if name in columns]
    return pyarrow.schema(fields, {b"grid": json.dumps(list(grid)).encode()})


def _write_split(outgoing: Outgoing, split: str) -> None:
    schema = _schema(outgoing.store, split, outgoing.id_dtype)
    file = outgoing.folder / f"{split}.parquet"
    with pyarrow.parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        waiting: list[pyarrow.RecordBatch] = []
        for chunk in outgoing.chunks(split):
            waiting.append(_batch(chunk, schema))
            if sum(batch.num_rows for batch in waiting) >= ROW_GROUP:
                writer.write_table(pyarrow.Table.from_batches(waiting, schema))
                waiting = []
        if waiting:
            writer.write_table(pyarrow.Table.from_batches(waiting, schema))


def _batch(chunk: Chunk, schema: pyarrow.Schema) -> pyarrow.RecordBatch:
    columns: dict[str, Any] = {
        "label": chunk.labels,
        "key": chunk.keys,
        "meta": None if chunk.meta is None else [json_line(meta) for meta in chunk.meta],
        "view": chunk.views,
    }
    ids = pyarrow.FixedSizeListArray.from_arrays(
        pyarrow.array(chunk.ids.ravel()), type=schema.field(IDS).type
    )
    rest = [pyarrow.array(columns[name], schema.field(name).type) for name in schema.names[1:]]
    return pyarrow.RecordBatch.from_arrays([ids, *rest], schema=schema)


PLUGIN = Parquet
