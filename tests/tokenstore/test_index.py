"""The index file: its bytes as docs/format.md draws them, and what a reader refuses."""

import struct
import uuid

import numpy as np
import pytest
import xxhash

from tests.small_store import Small, write_small_store
from tokenstore.errors import CorruptStore
from tokenstore.index import BlockBytes, IndexPlace, IndexReader, index_bytes, page_dtype
from tokenstore.manifest import FileEntry, ShardEntry, columns_for
from tokenstore.storage import open_storage

COLUMNS = columns_for(3, keys=False)
SHARD_SHA256 = "0123456789abcdef" + "0" * 48
SEED = 0xEFCDAB8967452301
BLOCKS = [
    [BlockBytes(512, 30, 11, np.array([10, 10, 25, 30], "<u4")), BlockBytes(1536, 4, 12, None)],
    [BlockBytes(2560, 7, 13, np.array([3, 7], "<u4")), BlockBytes(3584, 2, 14, None)],
]


def write_index(content, shard_bytes=5120):
    storage = open_storage(f"memory://{uuid.uuid4()}")
    storage.create("x.index", content)
    index = FileEntry(name="x.index", bytes=len(content), sha256="0" * 64)
    shard = FileEntry(name="x.tar", bytes=shard_bytes, sha256=SHARD_SHA256)
    entry = ShardEntry(count=6, tables=0, shard=shard, index=index)
    return IndexPlace(storage, entry, COLUMNS, 4, 100)


@pytest.fixture(scope="module")
def content():
    return index_bytes(COLUMNS, 4, 100, BLOCKS, SEED)


def test_the_bytes_are_those_of_the_drawing(content):
    header = struct.pack("<8sIIQQQ", b"TOKNIDX\0", 0, 2, 6, 4, 100)
    header += struct.pack("<Q", xxhash.xxh3_64_intdigest(header, SEED))
    pages = b""
    for ranks, label in BLOCKS:
        ends = ranks.ends.tolist()
        ends += ends[-1:] * (4 - len(ends))
        rest = struct.pack("<QQQ4I", ranks.base, ranks.size, ranks.hash, *ends)
        rest += struct.pack("<QQQ", label.base, label.size, label.hash)
        pages += struct.pack("<Q", xxhash.xxh3_64_intdigest(rest, SEED)) + rest
    assert content == header + pages


def test_records_are_located_in_any_order(content):
    reader = IndexReader(write_index(content))
    starts, ends = reader.locate("ranks", np.array([5, 0, 2, 4, 1, 5]))
    assert starts.tolist() == [2563, 512, 522, 2560, 522, 2563]
    assert ends.tolist() == [2567, 522, 537, 2563, 522, 2567]
    assert reader.block("label", 1)[:3] == (3584, 2, 14)


def test_opening_reads_no_page_and_touching_one_reads_no_other(content):
    damaged = bytearray(content)
    damaged[-1] ^= 1
    reader = IndexReader(write_index(bytes(damaged)))
    assert reader.locate("ranks", np.array([3]))[0].tolist() == [537]
    with pytest.raises(CorruptStore, match=r"x\.index: page 1 does not match its hash"):
        reader.locate("ranks", np.array([3, 4]))


def test_every_flipped_bit_is_refused(content):
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptStore, match=r"x\.index"):
            IndexReader(write_index(bytes(damaged))).locate("ranks", np.arange(6))


def test_a_file_of_another_length_is_refused(content):
    place = write_index(content)
    for other in (content[:-1], content + b"\0", b""):
        place.storage.create("x.index", other)
        with pytest.raises(CorruptStore, match=f"has {len(other)} bytes, expected {len(content)}"):
            IndexReader(place)
    place.storage.remove("x.index")
    with pytest.raises(CorruptStore, match="is missing"):
        IndexReader(place)


def test_an_index_of_another_shard_is_refused(content):
    place = write_index(index_bytes(COLUMNS, 4, 200, BLOCKS, SEED))
    with pytest.raises(CorruptStore, match="'first' is 200, expected 100"):
        IndexReader(place)


def test_a_sound_index_of_a_shard_with_other_bytes_is_refused():
    place = write_index(index_bytes(COLUMNS, 4, 100, BLOCKS, SEED + 1))
    with pytest.raises(CorruptStore, match="'check' is .* the index of another shard"):
        IndexReader(place)


@pytest.mark.parametrize(
    ("ranks", "complaint"),
    [
        (BlockBytes(5000, 130, 0, np.array([10, 20, 30, 130], "<u4")), "ends at byte 5130"),
        (BlockBytes(2**64 - 8, 8, 0, np.array([8, 8, 8, 8], "<u4")), "ends at byte"),
        (BlockBytes(512, 30, 0, np.array([10, 20, 30, 31], "<u4")), "do not add up to 30"),
        (BlockBytes(512, 30, 0, np.array([10, 9, 30, 30], "<u4")), "do not add up to 30"),
    ],
)
def test_a_page_that_points_out_of_its_shard_is_refused(ranks, complaint):
    blocks = [[ranks, BLOCKS[0][1]], BLOCKS[1]]
    reader = IndexReader(write_index(index_bytes(COLUMNS, 4, 100, blocks, SEED)))
    with pytest.raises(CorruptStore, match=complaint):
        reader.locate("ranks", np.array([0]))


def test_full_pages_cost_four_bytes_an_image_and_little_else():
    page = page_dtype(columns_for(1000, keys=True), 1024).itemsize
    assert page == 8 + 3 * 24 + 4 * 1024


def test_index_labels_and_framing_cost_at_most_eight_bytes_an_image(tmp_path):
    small = Small(
        counts=(("train", 10_000),), grid=(2, 2), codes=9, block=1024, shard=10_000,
        codecs=("zstd",), classes=1000, keys=False, extras=False,
    )  # fmt: skip
    split = write_small_store(tmp_path, small).store["train"]
    entry, shard = split.entry.shards[0], split.shards.open(0)
    records = sum(shard.index.block("ranks", b).size for b in range(shard.index.blocks))
    assert (entry.shard.bytes + entry.index.bytes - records) / 10_000 <= 8
