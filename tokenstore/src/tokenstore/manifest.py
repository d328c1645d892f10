"""The manifest: the one JSON file that makes a store whole and self-describing.

It is written last, so its existence means that everything it lists is there. Loading is validating:
format number first, then required features, the hash, byte equality with the canonical form, every
field, and the sums and references between fields. The bytes on disk are canonical JSON (sorted
keys, no spaces, UTF-8) whose last member `hash` is the SHA-256 of the rest, then one newline.
This module opens no shard; docs/format.md is its normative text.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any, Self

from pydantic import Field, JsonValue, ValidationError, model_validator

from tokenstore.entries import (
    Column,
    Dimension,
    Entry,
    FileEntry,
    OrderEntry,
    RejectsEntry,
    Sha256,
    ShardEntry,
    SourceEntry,
    SplitEntry,
    TableSet,
    TokenizerEntry,
    VocabularyEntry,
    Word,
    columns_for,
    label_dtype,
)
from tokenstore.errors import FormatTooNew, ManifestError, NotAStore, PublishRace, StoreError
from tokenstore.storage import Storage

__all__ = [
    "BLOCK",
    "FORMAT",
    "NAME",
    "Column",
    "FileEntry",
    "Manifest",
    "OrderEntry",
    "RejectsEntry",
    "ShardEntry",
    "SourceEntry",
    "SplitEntry",
    "TableSet",
    "TokenizerEntry",
    "VocabularyEntry",
    "columns_for",
    "counted_splits",
    "label_dtype",
    "load_manifest",
    "load_versions",
    "parse_manifest",
    "publish",
]

FORMAT = 0  # docs/releasing.md says when it becomes 1, and what it freezes then
BLOCK = 1024
LARGEST_GRID = 1 << 24  # ranks of one image; more is damage or an attack on the reader's memory
NAME = "manifest.json"
# What a manifest may require beyond rank grids [h, w]; codecs are asked of the registry by name.
FEATURES = frozenset({"label", "key", "mask", "meta", "view", "channels"})


class Manifest(Entry):
    """A store: everything a reader must know before it touches another file."""

    format: Annotated[int, Field(ge=FORMAT, le=FORMAT)] = FORMAT
    requires: tuple[str, ...] = ()
    version: Annotated[int, Field(ge=0, lt=10**6)] = 0
    parent: Sha256 | None = None
    tokenizer: TokenizerEntry
    preprocess: dict[str, JsonValue]
    grid: Annotated[tuple[Dimension, ...], Field(min_length=2, max_length=3)]
    vocabulary: VocabularyEntry
    table_sets: tuple[TableSet, ...]
    block: Annotated[int, Field(ge=1, le=65536)] = BLOCK
    splits: dict[Word, SplitEntry]
    classes: tuple[str, ...] | None
    ignore_index: Annotated[int, Field(ge=0, le=255)] | None = None  # the mask value of no class
    source: SourceEntry
    order: OrderEntry
    rejects: RejectsEntry
    plan: Sha256 | None = None  # of the build or import that made the store
    hash: Sha256 | None = None

    @model_validator(mode="after")
    def _splits_refer_to_what_is_there(self) -> Self:
        for name, split in self.splits.items():
            highest = max((shard.tables for shard in split.shards), default=-1)
            if highest >= len(self.table_sets):
                known = len(self.table_sets)
                raise ValueError(f"split '{name}' uses table set {highest} of {known}")
            if self.classes is None and any(column.name == "label" for column in split.columns):
                raise ValueError(f"split '{name}' has labels, but the store names no classes")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if math.prod(self.grid) > LARGEST_GRID:
            raise ValueError(f"a grid of {list(self.grid)} has more than {LARGEST_GRID} ranks")
        widest = max((tables.vocabulary_size for tables in self.table_sets), default=0)
        if widest > self.vocabulary.size:
            raise ValueError(
                f"a table set covers {widest} ranks, the vocabulary has {self.vocabulary.size}"
            )
        if (self.version == 0) != (self.parent is None):
            raise ValueError(f"version {self.version} has parent {self.parent}")
        name, times = Counter(file.name for file in self.files()).most_common(1)[0]
        if times > 1:
            raise ValueError(f"file '{name}' is listed {times} times")
        return self

    def files(self) -> list[FileEntry]:
        """Every file that the store needs besides the manifests, in the order of the manifest."""
        single = [self.vocabulary.file, *(tables.file for tables in self.table_sets)]
        files = [file for file in (*single, self.rejects.file) if file is not None]
        for split in self.splits.values():
            files += [file for shard in split.shards for file in (shard.shard, shard.index)]
        return files

    def features(self) -> set[str]:
        """What a reader must know to read this store; `requires` lists exactly these."""
        columns = {column.name for split in self.splits.values() for column in split.columns}
        return columns - {"ranks"} | ({"channels"} if len(self.grid) == 3 else set())

    def sealed(self) -> "Manifest":
        """This manifest with `requires` and `hash` filled in, ready to be written."""
        complete = self.model_copy(update={"requires": tuple(sorted(self.features()))})
        return complete.model_copy(update={"hash": _sha256(_canonical(complete.model_dump()))})


def counted_splits(manifest: Manifest) -> tuple[str, ...]:
    """The splits whose tokens the vocabulary counts: train, or all where train has no image."""
    train = manifest.splits.get("train")
    return ("train",) if train is not None and train.count else tuple(manifest.splits)


def dump_manifest(manifest: Manifest) -> bytes:
    """The bytes of a sealed manifest as they stand on disk."""
    rest = _canonical(manifest.model_dump())
    return rest[:-1] + f',"hash":"{manifest.hash}"}}\n'.encode()


def parse_manifest(content: bytes, place: str) -> Manifest:
    """Validate the bytes of a manifest.

    Raises:
        FormatTooNew: a newer format number, or a required feature that is not known here.
        ManifestError: anything else that is wrong; names the field.
    """
    try:
        raw = json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{place} is no JSON ({error}); it is cut short or damaged") from error
    if not isinstance(raw, dict):
        raise ManifestError(f"{place} holds a {type(raw).__name__}, expected a JSON object")
    _check_format(raw, place)
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise ManifestError(_first_complaint(error, place)) from error
    sealed = manifest.sealed()
    if manifest.hash != sealed.hash:
        raise ManifestError(
            f"{place} says its hash is {manifest.hash}, expected {sealed.hash}; it is damaged"
        )
    if dump_manifest(sealed) != content:
        raise ManifestError(f"{place} is not in canonical form; it was edited or damaged")
    return manifest


def load_manifest(storage: Storage) -> Manifest:
    """Read and validate the manifest of a store.

    Raises:
        NotAStore: there is no manifest.
        StoreError: there is one that cannot be read, for want of permission for example.
        FormatTooNew: see `parse_manifest`.
        ManifestError: see `parse_manifest`.
    """
    try:
        content = storage.read(NAME)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotAStore(
            f"'{storage.url}' is no token store: it has no {NAME}. Is the path right? "
            "If a build was interrupted, run the same command again to continue it; "
            "if it was copied, the copy is not complete."
        ) from error
    except OSError as error:
        raise StoreError(f"cannot read {storage.url}/{NAME}: {error.strerror or error}") from error
    return parse_manifest(content, f"{storage.url}/{NAME}")


def load_versions(storage: Storage, newest: Manifest) -> Iterator[Manifest]:
    """The manifests of all versions of a store, from the newest back to version 0.

    Raises:
        ManifestError: one is missing, damaged, or not the parent of the next.
    """
    yield newest
    while newest.version:
        name = version_name(newest.version - 1)
        where = f"{storage.url}/{name}"
        try:
            older = parse_manifest(storage.read(name), where)
        except FileNotFoundError as error:
            raise ManifestError(f"{where} is missing; the store is not whole") from error
        if (older.version, older.hash) != (newest.version - 1, newest.parent):
            raise ManifestError(
                f"{where} is version {older.version} with hash {older.hash}, expected "
                f"{newest.version - 1} and {newest.parent}; it is of another store"
            )
        newest = older
        yield newest


def publish(storage: Storage, manifest: Manifest) -> Manifest:
    """Make a store whole: commit the manifest's version, then point `manifest.json` at it.

    Every file that the manifest lists must already be written. Returns the sealed manifest.

    Raises:
        PublishRace: this version exists with other content.
    """
    sealed = manifest.sealed()
    content = dump_manifest(sealed)
    parse_manifest(content, "the manifest to be published")
    version = version_name(sealed.version)
    try:
        storage.create_new(version, content)
    except FileExistsError as error:
        if storage.read(version) != content:
            raise PublishRace(
                f"{storage.url}/{version} was published by somebody else. "
                "Open the store as it is now, and repeat the change on top of it."
            ) from error
    storage.create(NAME, content)
    return sealed


def version_name(version: int) -> str:
    """3 -> "manifests/000003.json"."""
    return f"manifests/{version:06d}.json"


def _check_format(raw: dict[str, Any], place: str) -> None:
    found = raw.get("format")
    if isinstance(found, int) and found > FORMAT:
        raise FormatTooNew(
            f"{place} has format {found}, this version of tokenstore reads format {FORMAT}. "
            "Install a newer tokenstore."
        )
    if isinstance(found, int) and not isinstance(found, bool) and 0 <= found < FORMAT:
        raise ManifestError(
            f"{place} has format {found}, this version of tokenstore reads format {FORMAT}. Build "
            "the store again, or export it with the version that made it and import that."
        )
    if found != FORMAT or isinstance(found, bool):
        raise ManifestError(f"{place}: format is {found!r}, expected {FORMAT}")
    requires = raw.get("requires")
    listed = requires if isinstance(requires, list) else []
    unknown = [name for name in listed if isinstance(name, str) and name not in FEATURES]
    if unknown:
        raise FormatTooNew(
            f"{place} requires {', '.join(unknown)}, this version of tokenstore knows "
            f"{', '.join(sorted(FEATURES))}. Install a newer tokenstore."
        )


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _first_complaint(error: ValidationError, place: str) -> str:
    """One sentence from pydantic's list: field, value, expectation."""
    first = error.errors(include_url=False)[0]
    field = ".".join(map(str, first["loc"])) or "the whole"
    value = repr(first["input"])
    shown = value if len(value) <= 60 else value[:57] + "..."
    return f"{place}: {field} is {shown}: {first['msg']}"


def _canonical(fields: dict[str, Any]) -> bytes:
    """Sorted keys, no spaces, UTF-8, without the members `hash` and an absent `ignore_index`."""
    absent = {"hash", "ignore_index"} if fields["ignore_index"] is None else {"hash"}
    rest = {name: value for name, value in fields.items() if name not in absent}
    try:
        text = json.dumps(
            rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
        return text.encode()
    except ValueError as error:  # an infinite number, or text that is not valid Unicode
        raise ManifestError(f"the manifest holds what JSON cannot: {error}") from error


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
