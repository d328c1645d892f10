"""What a manifest is made of: files, tables, columns, shards, splits. Data only.

Every entry is immutable, takes exact types and refuses members that it does not know; a name that
could lie outside the store is refused here, so nothing after this needs to look again. How entries
become a file is for `manifest` to say.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

UNKNOWN = "unknown"  # name of the tokenizer of tokens that were imported without its name

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Dimension = Annotated[int, Field(ge=1, le=65536)]
# No separator, no leading dot: nothing that a manifest names can lie outside its store.
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=200)]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]*$", max_length=100)]


class Entry(BaseModel):
    """What every part of a manifest shares: immutable, exact types, no unknown members."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class FileEntry(Entry):
    """One file of the store: its name, length and SHA-256."""

    name: FileName
    bytes: Count
    sha256: Sha256


class TokenizerEntry(Entry):
    """What made the ids: registry name, settings, SHA-256 of the weights."""

    name: str
    config: dict[str, JsonValue]
    weights: Sha256 | None

    @property
    def codes(self) -> int | None:
        """Codes of the whole codebook, where the settings tell."""
        codes = self.config.get("codes")
        return codes if isinstance(codes, int) else None


class VocabularyEntry(Entry):
    """The ids that occur: `entropy` is the order-0 entropy of a token in bits."""

    file: FileEntry
    size: Dimension
    dimension: Dimension | None
    entropy: Annotated[float, Field(ge=0, le=16)]


class TableSet(Entry):
    """A codec with its shared tables, for ranks below `vocabulary_size`."""

    codec: Word
    vocabulary_size: Dimension
    file: FileEntry | None


ColumnName = Literal["ranks", "label", "key", "mask", "meta", "view"]
ColumnKind = Literal["records", "fixed", "packed"]
KINDS: dict[ColumnName, ColumnKind] = {
    "ranks": "records",
    "label": "fixed",
    "key": "packed",
    "mask": "records",
    "meta": "packed",
    "view": "fixed",
}


class Column(Entry):
    """One column of a split; see docs/format.md for what each kind means on disk."""

    name: ColumnName
    kind: ColumnKind
    dtype: Literal["<u1", "<u2", "<u4"] | None = None

    @model_validator(mode="after")
    def _kind_of_name(self) -> Self:
        if self.kind != KINDS[self.name]:
            raise ValueError(f"column '{self.name}' is of kind '{KINDS[self.name]}'")
        if (self.dtype is None) == (self.kind == "fixed"):
            raise ValueError(f"column '{self.name}' of kind '{self.kind}' has dtype {self.dtype}")
        return self


class ShardEntry(Entry):
    """One tar of blocks with its index; `tables` is its place in `table_sets`."""

    count: Annotated[int, Field(ge=1, lt=2**63)]
    tables: Count
    shard: FileEntry
    index: FileEntry


class SplitEntry(Entry):
    """The samples of one split; `source_bytes` is the size of the image files they came from."""

    count: Count
    source_bytes: Count
    columns: tuple[Column, ...]
    shards: tuple[ShardEntry, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [column.name for column in self.columns]
        if names[:1] != ["ranks"] or len(set(names)) != len(names):
            raise ValueError(f"columns {names} must be distinct and begin with 'ranks'")
        total = sum(shard.count for shard in self.shards)
        if total != self.count:
            raise ValueError(f"count is {self.count}, but the shards hold {total} samples")
        return self


class SourceEntry(Entry):
    """Where the images came from: kind of source, SHA-256 of its listing."""

    kind: str
    listing: Sha256


class OrderEntry(Entry):
    """How samples were ordered: the rule's name and its seed."""

    rule: str
    seed: int | None


class RejectsEntry(Entry):
    """Images that were refused; a parquet file lists them where there are any."""

    count: Count
    file: FileEntry | None


def columns_for(
    classes: int | None, *, keys: bool, masks: bool = False, meta: bool = False, views: bool = False
) -> tuple[Column, ...]:
    """The columns of a split with these contents; labels take the narrowest width for `classes`."""
    columns = [Column(name="ranks", kind="records")]
    if classes is not None:
        columns.append(Column(name="label", kind="fixed", dtype=label_dtype(classes)))
    if keys:
        columns.append(Column(name="key", kind="packed"))
    if masks:
        columns.append(Column(name="mask", kind="records"))
    if meta:
        columns.append(Column(name="meta", kind="packed"))
    if views:
        columns.append(Column(name="view", kind="fixed", dtype="<u2"))
    return tuple(columns)


def label_dtype(classes: int) -> Literal["<u1", "<u2", "<u4"]:
    """256 -> "<u1", 257 -> "<u2"."""
    if classes <= 1 << 8:
        return "<u1"
    return "<u2" if classes <= 1 << 16 else "<u4"
