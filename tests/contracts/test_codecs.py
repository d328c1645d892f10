"""The law of tokenstore/codecs/base.py, asked of every codec that the registry finds."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstore import registry
from tokenstore.codecs import base
from tokenstore.codecs.base import CodecSpec, Payloads
from tokenstore.errors import CodecError

CODECS = registry.names("tokenstore.codecs")
SIZES = [2, 255, 256, 510, 511, 8192, 65536]
GRIDS = [(1, 1), (4, 4), (3, 5), (16, 1), (2, 4, 4), (1, 1, 1), (64, 48)]

codecs = pytest.mark.parametrize("name", CODECS)
sizes = pytest.mark.parametrize("size", SIZES)


def make(name, size, grid, sample_count=20, seed=0):
    spec = CodecSpec(size, grid)
    return registry.find("tokenstore.codecs", name).fit(grids(spec, sample_count, seed), spec)


def grids(spec, count, seed=0):
    """Skewed ranks that reach both ends of the vocabulary."""
    rng = np.random.default_rng(seed)
    draws = rng.random((count, *spec.grid)) ** 4 * spec.vocabulary_size
    ranks = draws.astype(np.uint16)
    if count:
        ranks.flat[-1] = spec.vocabulary_size - 1
    return ranks


def decoded(codec, payloads, rows):
    out = np.full((len(rows), *codec.spec.grid), 7, np.uint16)
    codec.decode(payloads.data, payloads.starts[rows], payloads.ends[rows], out)
    return out


def test_the_known_codecs_are_found():
    assert {"context", "gzip", "rans", "zstd"} <= set(CODECS)


@codecs
@sizes
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_every_grid_comes_back(name, size, grid):
    codec = make(name, size, grid)
    ranks = grids(codec.spec, 11, seed=1)
    payloads = codec.encode(ranks)
    assert payloads.ends.dtype == np.int64
    assert len(payloads.ends) == 11
    assert payloads.ends[-1] == len(payloads.data)
    assert np.array_equal(decoded(codec, payloads, np.arange(11)), ranks)


@codecs
@sizes
@settings(deadline=None, max_examples=15)
@given(draws=st.lists(st.integers(0, 2**32), min_size=6, max_size=24))
def test_any_ranks_of_the_vocabulary_come_back(name, size, draws):
    codec = CACHE.setdefault((name, size), None) or make(name, size, (2, 3))
    CACHE[name, size] = codec
    ranks = (np.array(draws[: len(draws) // 6 * 6]) % size).astype(np.uint16).reshape(-1, 2, 3)
    payloads = codec.encode(ranks)
    assert np.array_equal(decoded(codec, payloads, np.arange(len(ranks))), ranks)


CACHE: dict = {}


@codecs
@pytest.mark.parametrize("size", [2, 300, 65536])
def test_ends_of_the_vocabulary_and_constant_grids_come_back(name, size):
    codec = make(name, size, (8, 8))
    ranks = np.stack([np.full((8, 8), rank, np.uint16) for rank in (0, size // 2, size - 1)])
    assert np.array_equal(decoded(codec, codec.encode(ranks), np.arange(3)), ranks)


@codecs
def test_payloads_decode_in_any_order_with_repeats(name):
    codec = make(name, 511, (4, 4))
    ranks = grids(codec.spec, 30, seed=2)
    payloads = codec.encode(ranks)
    rows = np.random.default_rng(3).integers(0, 30, 100)
    assert np.array_equal(decoded(codec, payloads, rows), ranks[rows])


@codecs
def test_payloads_may_lie_anywhere_in_the_buffer(name):
    codec = make(name, 511, (4, 4))
    ranks = grids(codec.spec, 5)
    payloads = codec.encode(ranks)
    noise = np.random.default_rng(0).integers(0, 256, 50).astype(np.uint8)
    moved = Payloads(np.concatenate([noise, payloads.data, noise]), payloads.ends + 50)
    out = np.empty_like(ranks)
    codec.decode(moved.data, payloads.starts + 50, moved.ends, out)
    assert np.array_equal(out, ranks)


@codecs
def test_threads_may_share_a_codec(name):
    codec = make(name, 511, (16, 16), sample_count=400)
    ranks = grids(codec.spec, 60, seed=5)
    payloads = codec.encode(ranks)

    def decode_some(seed):
        rng = np.random.default_rng(seed)
        rows = rng.integers(0, 60, int(rng.choice([1, 5, 100])))
        assert np.array_equal(decoded(codec, payloads, rows), ranks[rows])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(decode_some, range(100)))


@codecs
def test_large_batches_are_decoded_by_several_threads(name, monkeypatch):
    monkeypatch.setattr(base, "cores", lambda: 3)
    codec = make(name, 511, (4, 4), sample_count=100)
    ranks = grids(codec.spec, 3 * base.ROWS_A_THREAD + 5, seed=6)
    payloads, seen = codec.encode(ranks), []
    decode = codec.decode

    def watched(data, starts, ends, out):
        seen.append((threading.get_ident(), len(starts)))
        decode(data, starts, ends, out)

    monkeypatch.setattr(codec, "decode", watched)
    out = np.zeros_like(ranks)
    codec.decode_many(payloads.data, payloads.starts, payloads.ends, out)
    assert np.array_equal(out, ranks)
    assert threading.get_ident() not in {thread for thread, _ in seen}
    assert sorted(rows for _, rows in seen) == [257, 258, 258]


@codecs
def test_several_threads_name_the_first_bad_row_too(name, monkeypatch):
    monkeypatch.setattr(base, "cores", lambda: 3)
    codec = make(name, 511, (4, 4), sample_count=100)
    payloads = codec.encode(grids(codec.spec, 1000, seed=6))
    ends = payloads.ends.copy()
    ends[[600, 900]] = payloads.starts[[600, 900]] + 1
    with pytest.raises(CodecError, match="row 600 "):
        codec.decode_many(payloads.data, payloads.starts, ends, np.zeros((1000, 4, 4), np.uint16))


@codecs
def test_no_grids_make_no_payloads(name):
    codec = make(name, 511, (4, 4))
    payloads = codec.encode(grids(codec.spec, 0))
    assert len(payloads.ends) == len(payloads.data) == 0
    assert decoded(codec, payloads, np.zeros(0, np.int64)).shape == (0, 4, 4)


@codecs
@pytest.mark.parametrize("count", [0, 1, 2, 7])
@pytest.mark.parametrize("size", [1, 2, 300])
def test_a_tiny_sample_still_makes_a_codec_for_all_grids(name, count, size):
    spec = CodecSpec(size, (3, 2))
    codec = registry.find("tokenstore.codecs", name).fit(np.zeros((count, 3, 2), np.uint16), spec)
    ranks = grids(spec, 9)
    assert np.array_equal(decoded(codec, codec.encode(ranks), np.arange(9)), ranks)


@codecs
@pytest.mark.parametrize("size", [300, 511])
def test_the_shipped_tables_make_the_same_codec(name, size):
    codec = make(name, size, (16, 16), sample_count=400)
    again = type(codec).from_tables(codec.tables(), codec.spec)
    ranks = grids(codec.spec, 12, seed=4)
    first, second = codec.encode(ranks), again.encode(ranks)
    assert first.data.tobytes() == second.data.tobytes()
    assert np.array_equal(decoded(again, first, np.arange(12)), ranks)


@codecs
def test_fitting_twice_gives_the_same_tables(name):
    first, second = (make(name, 511, (16, 16), sample_count=300).tables() for _ in range(2))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[key], second[key]) for key in first)


@codecs
def test_tables_for_many_images_may_be_larger_and_code_the_same_grids(name):
    spec = CodecSpec(511, (16, 16))
    sample = grids(spec, 300, seed=6)
    fit = registry.find("tokenstore.codecs", name).fit
    few, many = fit(sample, spec), fit(sample, spec, images=10**7)
    size = {codec: sum(t.nbytes for t in codec.tables().values()) for codec in (few, many)}
    assert size[few] <= size[many]
    assert np.array_equal(decoded(many, many.encode(sample), np.arange(300)), sample)


@codecs
def test_encoding_does_not_depend_on_the_company(name):
    codec = make(name, 511, (8, 8))
    ranks = grids(codec.spec, 10)
    together = codec.encode(ranks)
    alone = [codec.encode(ranks[i : i + 1]).data.tobytes() for i in range(10)]
    assert together.data.tobytes() == b"".join(alone)


@codecs
def test_foreign_tables_are_refused(name):
    codec = registry.find("tokenstore.codecs", name)
    with pytest.raises(CodecError):
        codec.from_tables({"no such table": np.zeros(3, np.uint8)}, CodecSpec(5, (2, 2)))


@codecs
@pytest.mark.parametrize(
    "ranks",
    [np.zeros((2, 4, 5), np.uint16), np.zeros((2, 4, 4), np.int64), np.full((1, 4, 4), 511)],
    ids=["shape", "type", "outside"],
)
def test_grids_that_do_not_belong_are_refused(name, ranks):
    ranks = ranks.astype(np.uint16) if ranks.max() == 511 else ranks
    with pytest.raises(CodecError, match=r"\d"):
        make(name, 511, (4, 4)).encode(ranks)


def survives(codec, data, starts, ends):
    """Damage may decode to other ranks of the vocabulary, or be refused; nothing else."""
    out = np.zeros((len(starts), *codec.spec.grid), np.uint16)
    try:
        codec.decode(data, starts, ends, out)
    except CodecError:
        return
    assert out.max(initial=0) < codec.spec.vocabulary_size


@codecs
@pytest.mark.parametrize("size", [2, 511, 8192])
def test_every_flipped_bit_is_refused_or_decodes_to_ranks(name, size):
    codec = make(name, size, (4, 4), sample_count=200)
    payloads = codec.encode(grids(codec.spec, 3))
    for bit in range(8 * int(payloads.ends[0])):
        data = payloads.data.copy()
        data[bit // 8] ^= 1 << bit % 8
        survives(codec, data, payloads.starts, payloads.ends)


@codecs
def test_every_cut_is_refused_or_decodes_to_ranks(name):
    codec = make(name, 511, (4, 4), sample_count=200)
    payloads = codec.encode(grids(codec.spec, 2))
    for end in range(int(payloads.ends[0])):
        survives(codec, payloads.data, payloads.starts[:1], np.array([end]))


@codecs
@settings(deadline=None, max_examples=60)
@given(noise=st.binary(max_size=300))
def test_random_bytes_are_refused_or_decode_to_ranks(name, noise):
    codec = CACHE.setdefault((name, "noise"), None) or make(name, 511, (8, 8), sample_count=200)
    CACHE[name, "noise"] = codec
    data = np.frombuffer(noise, np.uint8)
    survives(codec, data, np.zeros(1, np.int64), np.array([len(data)]))


@codecs
def test_the_error_names_the_first_bad_row(name):
    codec = make(name, 511, (4, 4))
    payloads = codec.encode(grids(codec.spec, 6))
    ends = payloads.ends.copy()
    ends[3] = payloads.starts[3] + 1
    with pytest.raises(CodecError, match="row 3"):
        codec.decode(payloads.data, payloads.starts, ends, np.empty((6, 4, 4), np.uint16))


def test_listing_codecs_loads_no_numba():
    code = (
        "import sys; from tokenstore import registry; registry.names('tokenstore.codecs');"
        "sys.exit('numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
