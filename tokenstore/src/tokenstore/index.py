r"""The index of a shard: where each record starts. Both halves of the layout are in this file.

    header  offset 0   magic "TOKNIDX\0"              8 bytes
                   8   format, as in the manifest    <u4
                  12   number of columns             <u4
                  16   samples in the shard          <u8
                  24   samples in a block            <u8
                  32   number in the split of the first sample  <u8
                  40   xxh3-64 of bytes 0..40, seeded   <u8
    page    offset 48 + block x page size, one a block:
                   0   xxh3-64 of the rest of the page, seeded  <u8
                   8   for each column of the split, in the manifest's order:
                         base   offset in the shard of the block's bytes  <u8
                         size   length of the block's bytes               <u8
                         hash   xxh3-64 of the block's bytes              <u8
                         ends   only of `records` columns: <u4 x block; record i of the block is
                                bytes base + ends[i-1] .. base + ends[i] of the shard (ends[-1] = 0)

All pages have one size: in the last one, which may hold fewer samples, the remaining ends repeat
the last. A page is checked when it is first touched, so opening a shard costs nothing. The seed of
the two is the first 8 bytes of the shard's SHA-256, which the manifest tells: the index of another
shard fails, however sound it is in itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from tokenstore.errors import CorruptStore
from tokenstore.manifest import FORMAT, Column, ShardEntry
from tokenstore.storage import Storage

MAGIC = b"TOKNIDX\0"
HEADER = np.dtype(
    [
        ("magic", "S8"),
        ("format", "<u4"),
        ("columns", "<u4"),
        ("count", "<u8"),
        ("block", "<u8"),
        ("first", "<u8"),
        ("check", "<u8"),
    ]
)
Offsets = NDArray[np.int64]


class BlockBytes(NamedTuple):
    """One column of one block in its shard: the range of its bytes, their hash, its records."""

    base: int
    size: int
    hash: int
    ends: NDArray[np.uint32] | None


def page_dtype(columns: Sequence[Column], block: int) -> np.dtype[np.void]:
    """The layout of one page for these columns: fields `check`, `ranks.base` and so on."""
    fields: list[tuple[str, str] | tuple[str, str, tuple[int]]] = [("check", "<u8")]
    for column in columns:
        fields += [(f"{column.name}.{part}", "<u8") for part in ("base", "size", "hash")]
        if column.kind == "records":
            fields.append((f"{column.name}.ends", "<u4", (block,)))
    return np.dtype(fields)


def seed_of(shard_sha256: str) -> int:
    """What the hashes of an index begin with, so that it fits no other shard."""
    return int.from_bytes(bytes.fromhex(shard_sha256)[:8], "little")


def index_bytes(
    columns: Sequence[Column],
    block: int,
    first: int,
    blocks: Sequence[Sequence[BlockBytes]],
    seed: int,
) -> bytes:
    """The whole index file of a shard.

    Args:
        columns: the split's columns.
        block: samples in a block.
        first: number in the split of the shard's first sample.
        blocks: for each block, one `BlockBytes` a column.
        seed: `seed_of` the shard.
    """
    pages = np.zeros(len(blocks), page_dtype(columns, block))
    count = 0
    for page, parts in zip(pages, blocks, strict=True):
        for column, part in zip(columns, parts, strict=True):
            for field in ("base", "size", "hash"):
                page[f"{column.name}.{field}"] = getattr(part, field)
            if part.ends is not None:
                ends = page[f"{column.name}.ends"]
                ends[: len(part.ends)] = part.ends
                ends[len(part.ends) :] = part.ends[-1]
        page["check"] = xxhash.xxh3_64_intdigest(page.tobytes()[8:], seed)
        ranks = parts[0].ends
        count += 0 if ranks is None else len(ranks)
    header = np.zeros(1, HEADER)
    header[0] = (MAGIC, FORMAT, len(columns), count, block, first, 0)
    header["check"] = xxhash.xxh3_64_intdigest(header.tobytes()[:40], seed)
    return header.tobytes() + pages.tobytes()


@dataclass(frozen=True)
class IndexPlace:
    """Which index: where it lies and what the manifest says of it."""

    storage: Storage
    shard: ShardEntry
    columns: tuple[Column, ...]
    block: int
    first: int


class IndexReader:
    """The pages of one index file, each read and checked at its first touch. Thread-safe."""

    def __init__(self, place: IndexPlace) -> None:
        """Check the file's length and header, and no page.

        Raises:
            CorruptStore: the file is missing, of another length, or its header is wrong.
        """
        self._place = place
        self.url = f"{place.storage.url}/{place.shard.index.name}"
        self.block_size = place.block
        self.blocks = -(-place.shard.count // place.block)
        self._dtype = page_dtype(place.columns, place.block)
        self._seed = seed_of(place.shard.shard.sha256)
        self._check_header()
        self._pages = np.zeros(self.blocks, self._dtype)
        self._checked = np.zeros(self.blocks, np.bool_)
        self._records: dict[
            str, tuple[NDArray[Any], NDArray[Any]]
        ] = {  # views of the pages: looking a field up by name costs more than reading
            column.name: (self._pages[f"{column.name}.base"], self._pages[f"{column.name}.ends"])
            for column in place.columns
            if column.kind == "records"
        }

    def locate(self, column: str, samples: Offsets) -> tuple[Offsets, Offsets]:
        """Byte ranges in the shard of the records of these samples (numbers within the shard).

        Raises:
            CorruptStore: a page they lie on is damaged.
        """
        blocks, slots = np.divmod(samples, self._place.block)
        self._touch(blocks)
        base, ends = self._records[column][0][blocks].astype(np.int64), self._records[column][1]
        starts = np.where(slots > 0, ends[blocks, slots - 1], 0).astype(np.int64)
        return base + starts, base + ends[blocks, slots].astype(np.int64)

    def span(self, column: str, sample: int) -> tuple[int, int]:
        """As `locate`, of one sample."""
        block, slot = divmod(sample, self._place.block)
        if not self._checked[block]:
            self._touch(np.array([block]))
        base, ends = self._records[column]
        start = int(base[block])
        return start + (int(ends[block, slot - 1]) if slot else 0), start + int(ends[block, slot])

    def block(self, column: str, block: int) -> BlockBytes:
        """Where the bytes of one column of a block lie, and their hash.

        Raises:
            CorruptStore: the block's page is damaged.
        """
        page = self._touch(np.array([block]))[block]
        ends = page[f"{column}.ends"] if f"{column}.ends" in (self._dtype.names or ()) else None
        base, size, digest = (int(page[f"{column}.{part}"]) for part in ("base", "size", "hash"))
        return BlockBytes(base, size, digest, ends)

    def _check_header(self) -> None:
        place = self._place
        expected = HEADER.itemsize + self.blocks * self._dtype.itemsize
        try:
            found = place.storage.size(place.shard.index.name)
        except FileNotFoundError as error:
            raise CorruptStore(f"{self.url} is missing; the store is not whole") from error
        if not found == expected == place.shard.index.bytes:
            raise CorruptStore(
                f"{self.url} has {found} bytes, expected {expected} for {self.blocks} blocks "
                f"({place.shard.index.bytes} in the manifest); it is cut or of another store"
            )
        raw = place.storage.part(place.shard.index.name, 0, HEADER.itemsize)
        header = np.frombuffer(raw, HEADER)[0]
        wanted = {
            "magic": MAGIC.rstrip(b"\0"),
            "format": FORMAT,
            "columns": len(place.columns),
            "count": place.shard.count,
            "block": place.block,
            "first": place.first,
            "check": xxhash.xxh3_64_intdigest(raw[:40], self._seed),
        }
        for field, value in wanted.items():
            if header[field].item() != value:
                raise CorruptStore(
                    f"{self.url}: header field '{field}' is {header[field].item()!r}, "
                    f"expected {value!r}; it is damaged, or the index of another shard"
                )

    def _touch(self, blocks: Offsets) -> NDArray[np.void]:
        """All pages, after reading and checking those of `blocks` that are new."""
        if not self._checked[blocks].all():
            for block in np.unique(blocks[~self._checked[blocks]]).tolist():
                self._pages[block] = self._page(block)
                self._checked[block] = True
        return self._pages

    def _page(self, block: int) -> np.void:
        size = self._dtype.itemsize
        start = HEADER.itemsize + block * size
        raw = self._place.storage.part(self._place.shard.index.name, start, start + size)
        page: np.void = np.frombuffer(raw, self._dtype)[0]
        where = f"{self.url}: page {block}"
        if page["check"] != xxhash.xxh3_64_intdigest(raw[8:], self._seed):
            raise CorruptStore(f"{where} does not match its hash; the file is damaged")
        for column in self._place.columns:
            base, length = (int(page[f"{column.name}.{part}"]) for part in ("base", "size"))
            if base + length > self._place.shard.shard.bytes:
                raise CorruptStore(
                    f"{where}: column '{column.name}' ends at byte {base + length} of a shard "
                    f"of {self._place.shard.shard.bytes} bytes"
                )
            if column.kind != "records":
                continue
            ends = page[f"{column.name}.ends"]
            if int(ends[-1]) != length or (ends[1:] < ends[:-1]).any():
                raise CorruptStore(f"{where}: ends of '{column.name}' do not add up to {length}")
        return page
