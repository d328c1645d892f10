"""Writing shards: chunks of any size, and what cannot be written."""

import itertools
import uuid
from dataclasses import replace

import numpy as np
import pyarrow.parquet
import pytest

from tokenstore import registry
from tokenstore.codecs.base import CodecSpec
from tokenstore.errors import CodecError
from tokenstore.manifest import columns_for
from tokenstore.storage import open_storage
from tokenstore.writer import (
    Reject,
    Samples,
    ShardPlan,
    write_rejects,
    write_shard,
    write_tables,
)


@pytest.fixture
def storage():
    return open_storage(f"memory://{uuid.uuid4()}")


@pytest.fixture
def plan(storage):
    codec = registry.find("tokenstore.codecs", "gzip")(CodecSpec(9, (2, 2)))
    columns = columns_for(3, keys=True)
    return ShardPlan("train", 4, 40, columns, 0, write_tables(storage, codec), codec, block=4)


def some(count):
    rng = np.random.default_rng(0)
    ranks = rng.integers(0, 9, (count, 2, 2)).astype(np.uint16)
    return Samples(ranks, rng.integers(0, 3, count), [f"key{i}" for i in range(count)])


@pytest.mark.parametrize("cuts", [[], [1], [4, 8], [3, 3, 9], [0, 10, 10]])
def test_the_bytes_do_not_depend_on_the_chunks(storage, plan, cuts):
    whole, samples = write_shard(storage, plan, [some(10)]), some(10)
    edges = [0, *cuts, 10]
    chunks = [samples[a:b] for a, b in itertools.pairwise(edges)]
    assert write_shard(storage, plan, iter(chunks)) == whole
    assert whole.count == 10
    assert whole.shard.name == "train-000004.tar"


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (replace(some(5), keys=None), "train-000004: the images at sample 40 have no 'key'"),
        (replace(some(5), labels=np.full(5, 300)), "300 does not fit"),
        (replace(some(5), keys=["a\nb"] * 5), "newline"),
        (replace(some(5), ranks=np.full((5, 2, 2), 9, np.uint16)), "rank 9 lies outside"),
        (replace(some(5), ranks=np.zeros((5, 2, 3), np.uint16)), "expected uint16 grids"),
    ],
)
def test_values_that_do_not_fit_are_refused_and_leave_no_file(storage, plan, wrong, complaint):
    with pytest.raises(CodecError, match=complaint):
        write_shard(storage, plan, [wrong])
    assert storage.names() == []


def test_a_column_of_another_length_is_refused():
    with pytest.raises(CodecError, match="5 images come with 4 values of 'keys'"):
        replace(some(5), keys=["a"] * 4)


def test_chunks_with_and_without_a_column_are_refused(storage, plan):
    with pytest.raises(CodecError, match="some chunks of a shard have keys and some have not"):
        write_shard(storage, plan, [some(2), replace(some(2), keys=None)])


def test_columns_that_the_plan_lacks_are_not_written(storage, plan):
    bare = replace(plan, columns=columns_for(None, keys=False))
    entry = write_shard(storage, bare, [some(3)])
    assert entry.shard.bytes == 512 + 512 + 1024


def test_rejects_are_listed_in_a_parquet_file(storage):
    assert write_rejects(storage, []).file is None
    rejects = [Reject("train", "a/b", "a/b.jpg", "cut short"), Reject("val", "c", "c.png", "é")]
    entry = write_rejects(storage, rejects)
    assert entry.count == 2
    assert entry.file.name == f"rejects-{entry.file.sha256[:16]}.parquet"
    with open_storage(storage.url)._fs.open(storage._path(entry.file.name)) as file:
        rows = pyarrow.parquet.read_table(file).to_pylist()
    assert [Reject(**row) for row in rows] == rejects
    assert write_rejects(storage, rejects) == entry
