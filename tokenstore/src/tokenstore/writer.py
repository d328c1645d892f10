"""Writing the files of a store: vocabulary, tables, shards, rejects; all that makes stores uses it.

Each function writes files that never change afterwards and returns what the manifest says of them;
`tokenstore.manifest.publish` comes last and makes the store whole. The bytes are a pure function of
the arguments. Where images and ids come from is the business of `build` and `interop`.
"""

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from tokenstore import checks, columns
from tokenstore.codecs.base import Codec, Ranks
from tokenstore.errors import CodecError
from tokenstore.listed import Reject
from tokenstore.manifest import (
    BLOCK,
    Column,
    FileEntry,
    RejectsEntry,
    ShardEntry,
    TableSet,
    VocabularyEntry,
)
from tokenstore.shard import NO_TABLES, ColumnBytes, ShardWriter
from tokenstore.storage import Storage
from tokenstore.vocabulary import Vocabulary


@dataclass(frozen=True)
class Samples:
    """Some images in order, column by column; a column that the split lacks is None.

    Masks are payloads, as `columns.mask_payload` makes them.
    """

    ranks: Ranks
    labels: NDArray[np.int64] | None = None
    keys: Sequence[str] | None = None
    masks: Sequence[bytes] | None = None
    meta: Sequence[dict[str, Any]] | None = None
    views: NDArray[np.uint16] | None = None

    def __post_init__(self) -> None:
        """Refuse columns of another length; a shorter one would shift all that follows."""
        for field in fields(self):
            column = getattr(self, field.name)
            if column is not None and len(column) != len(self.ranks):
                raise CodecError(
                    f"{len(self.ranks)} images come with {len(column)} values of '{field.name}'"
                )

    def __len__(self) -> int:
        """How many images."""
        return len(self.ranks)

    def __getitem__(self, part: slice) -> "Samples":
        """Some of them."""
        columns = [getattr(self, field.name) for field in fields(self)]
        some: list[Any] = [None if column is None else column[part] for column in columns]
        return Samples(*some)

    def __add__(self, other: "Samples") -> "Samples":
        """These images, then those."""
        return Samples(
            *(
                _joined(getattr(self, field.name), getattr(other, field.name), field.name)
                for field in fields(self)
            )
        )


@dataclass(frozen=True)
class ShardPlan:
    """What a shard is to be: its place in the split, its columns, and its codec as shipped."""

    split: str
    number: int
    first: int
    columns: tuple[Column, ...]
    tables: int
    table_set: TableSet
    codec: Codec
    block: int = BLOCK

    @property
    def name(self) -> str:
        """File name without suffix: "train-000000"."""
        return f"{self.split}-{self.number:06d}"


def write_vocabulary(storage: Storage, vocabulary: Vocabulary) -> VocabularyEntry:
    """Write `vocabulary-<hash>.safetensors`."""
    codebook = vocabulary.codebook
    return VocabularyEntry(
        file=_write_hashed(storage, "vocabulary", ".safetensors", vocabulary.to_bytes()),
        size=len(vocabulary),
        dimension=None if codebook is None else codebook.shape[1],
        entropy=vocabulary.entropy,
    )


def write_tables(storage: Storage, codec: Codec) -> TableSet:
    """Write `tables-<hash>.safetensors`, unless the codec has no tables."""
    tables = codec.tables()
    file = None
    if tables:
        content = safetensors.numpy.save(dict(tables))
        file = _write_hashed(storage, "tables", ".safetensors", content)
    return TableSet(codec=codec.name, vocabulary_size=codec.spec.vocabulary_size, file=file)


def write_rejects(storage: Storage, rejects: Sequence[Reject]) -> RejectsEntry:
    """Write `rejects-<hash>.parquet`, unless there are none."""
    if not rejects:
        return RejectsEntry(count=0, file=None)
    import pyarrow
    import pyarrow.parquet

    rows = {name: [getattr(r, name) for r in rejects] for name in Reject._fields}
    schema = pyarrow.schema([(name, pyarrow.string()) for name in Reject._fields])
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(rows, schema), sink, compression="zstd")
    file = _write_hashed(storage, "rejects", ".parquet", sink.getvalue())
    return RejectsEntry(count=len(rejects), file=file)


def write_shard(storage: Storage, plan: ShardPlan, chunks: Iterable[Samples]) -> ShardEntry:
    """Write one shard and its index.

    Args:
        storage: where the store is being made.
        plan: what the shard is to be.
        chunks: its images in order, any number at a time.

    Raises:
        CodecError: a rank outside the vocabulary, a column that the plan has and a chunk lacks, or
            a value that its column cannot hold.
    """
    count = 0
    with storage.writing(f"{plan.name}.tar") as file:
        writer = ShardWriter(file, plan.columns, plan.block, plan.first)
        for samples in _blocks(chunks, plan.block):
            writer.append(_block(plan, samples, plan.first + count))
            count += len(samples)
        index = writer.finish()
    storage.create(f"{plan.name}.index", index)
    shard = FileEntry(name=f"{plan.name}.tar", bytes=writer.bytes, sha256=writer.sha256)
    index_entry = _entry(f"{plan.name}.index", index)
    return ShardEntry(count=count, tables=plan.tables, shard=shard, index=index_entry)


def _block(plan: ShardPlan, samples: Samples, first: int) -> list[ColumnBytes]:
    """The bytes of every column of one block, in the order of the columns."""
    return [_column(plan, column, samples, first) for column in plan.columns]


def _column(plan: ShardPlan, column: Column, samples: Samples, first: int) -> ColumnBytes:
    if column.name == "ranks":
        file = plan.table_set.file
        tables = checks.salt(file.sha256 if file else None)
        payloads, ends = plan.codec.encode(samples.ranks)
        return _records(*checks.frame(payloads, ends, first, tables))
    values = getattr(samples, _FIELD_OF[column.name])
    if values is None:
        raise CodecError(f"{plan.name}: the images at sample {first} have no '{column.name}'")
    if column.name == "mask":
        return _records(*checks.frame(*columns.joined(values), first, NO_TABLES))
    if column.kind == "fixed":
        return ColumnBytes(columns.fixed_bytes(values, str(column.dtype)), None)
    strings = [columns.json_line(m) for m in values] if column.name == "meta" else values
    return ColumnBytes(columns.packed_bytes(strings), None)


_FIELD_OF = {"label": "labels", "key": "keys", "mask": "masks", "meta": "meta", "view": "views"}


def _records(records: NDArray[np.uint8], ends: NDArray[np.int64]) -> ColumnBytes:
    return ColumnBytes(records.tobytes(), ends)


def _blocks(chunks: Iterable[Samples], block: int) -> Iterator[Samples]:
    """Chunks of any length -> full blocks and one last shorter one."""
    waiting: Samples | None = None
    for chunk in chunks:
        waiting = chunk if waiting is None else waiting + chunk
        while len(waiting) >= block:
            yield waiting[:block]
            waiting = waiting[block:]
    if waiting is not None and len(waiting):
        yield waiting


def _joined(first: Any, second: Any, name: str) -> Any:
    if first is None and second is None:
        return None
    if first is None or second is None:
        raise CodecError(f"some chunks of a shard have {name} and some have not")
    if isinstance(first, np.ndarray):
        return np.concatenate([first, second])
    return [*first, *second]


def _write_hashed(storage: Storage, kind: str, suffix: str, content: bytes) -> FileEntry:
    entry = _entry("pending", content)
    name = f"{kind}-{entry.sha256[:16]}{suffix}"
    storage.create(name, content)
    return entry.model_copy(update={"name": name})


def _entry(name: str, content: bytes) -> FileEntry:
    digest = hashlib.sha256(content).hexdigest()
    return FileEntry(name=name, bytes=len(content), sha256=digest)
