"""`rans` and `context` against slow twins that can be read aloud; what only they promise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenstore.slow_ans import Refused, SlowContext, SlowRans, power
from tokenstore.codecs import ans, context_tables
from tokenstore.codecs.base import CodecSpec
from tokenstore.codecs.context import Context
from tokenstore.codecs.context_fit import choose, mean_bits
from tokenstore.codecs.rans import Rans
from tokenstore.errors import CodecError

PAIRS = {"rans": (Rans, SlowRans), "context": (Context, SlowContext)}
both = pytest.mark.parametrize("name", PAIRS)

# Vocabulary and grid: one code, few, 16-bit tables, a tail of 2 ranks, planes.
CASES = [(1, (1, 1)), (2, (3, 2)), (40, (4, 3)), (40, (2, 3, 4)), (1100, (3, 3)), (4097, (2, 2))]
cases = pytest.mark.parametrize(("size", "grid"), CASES, ids=str)
made: dict = {}


def textured(count, size, grid, seed=0):
    """Grids whose neighbours depend on each other, so that clusters pay."""
    rng = np.random.default_rng(seed)
    steps = rng.integers(0, 3, (count, *grid))
    walk = (steps.cumsum(-1) + steps.cumsum(-2)) * max(1, size // 17)
    return (np.where(rng.random(walk.shape) < 0.1, rng.integers(0, size, walk.shape), walk)
            % size).astype(np.uint16)  # fmt: skip


def pair(name, size, grid):
    """A codec and its slow twin, made once."""
    if (name, size, grid) not in made:
        kind, slow = PAIRS[name]
        spec = CodecSpec(size, grid)
        codec = kind.fit(textured(300, size, grid), spec, images=10**6)
        made[name, size, grid] = codec, slow(codec.tables(), size, grid)
    return made[name, size, grid]


def payload(codec, row, grids):
    coded = codec.encode(grids)
    return coded.data[coded.starts[row] : coded.ends[row]].tobytes()


def decoded(codec, data):
    out = np.zeros((1, *codec.spec.grid), np.uint16)
    codec.decode(np.frombuffer(data, np.uint8), np.zeros(1, np.int64), np.array([len(data)]), out)
    return out.ravel().tolist()


# --- the twins agree


@both
@cases
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32))
def test_bytes_are_those_of_the_slow_twin_and_come_back_from_both(name, size, grid, seed):
    codec, slow = pair(name, size, grid)
    grids = textured(5, size, grid, seed)
    grids[0] = size - 1
    for row in range(5):
        data = payload(codec, row, grids)
        assert data == slow.encode(grids[row])
        assert slow.decode(data, grid) == grids[row].ravel().tolist()
        assert decoded(codec, data) == grids[row].ravel().tolist()


@both
@pytest.mark.parametrize(("size", "grid"), [(40, (4, 3)), (4097, (2, 2))], ids=str)
@settings(deadline=None, max_examples=60)
@given(noise=st.binary(min_size=2, max_size=30))
def test_any_bytes_are_read_or_refused_like_the_slow_twin_does(name, size, grid, noise):
    codec, slow = pair(name, size, grid)
    whole = payload(codec, 0, textured(1, size, grid, seed=noise[0]))
    place = noise[1] % len(whole)
    for data in (noise, whole[:place], whole + noise, whole[:place] + noise[2:]):
        try:
            expected = slow.decode(data, grid)
        except Refused:
            with pytest.raises(CodecError, match="row 0"):
                decoded(codec, data)
        else:
            assert decoded(codec, data) == expected


def test_the_tables_of_every_context_are_those_of_the_slow_twin():
    codec, slow = pair("context", 40, (4, 3))
    tables = context_tables.ContextTables.read(codec.tables(), 40)
    assert tables.sides > 2
    lasts = tables.lasts().tolist()
    for up in range(tables.sides):
        for left in range(tables.sides):
            expected = np.cumsum(slow.frequencies(up, left)) - 1
            assert lasts[up * tables.sides + left] == expected.tolist()


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 30).flatmap(
        lambda size: st.tuples(
            st.lists(st.integers(-(2**15), 2**15 - 1), min_size=size, max_size=size),
            st.lists(st.integers(-128, 127), min_size=4 * size, max_size=4 * size),
        )
    )
)
def test_any_shipped_numbers_make_tables_that_can_code_every_symbol(drawn):
    popularity, weights = np.array(drawn[0], np.int16), np.array(drawn[1], np.int8)
    size = len(popularity)
    tables = context_tables.ContextTables(
        np.zeros((2, size), np.uint8), popularity, weights.reshape(4, size)
    )
    lasts = tables.lasts()
    assert (np.diff(lasts, prepend=-1) >= 1).all()
    assert (lasts[:, -1] == (1 << tables.bits) - 1).all()
    slow = SlowContext(tables.shipped(), size, (1, 1))
    assert lasts[2].tolist() == (np.cumsum(slow.frequencies(1, 0)) - 1).tolist()


def test_the_powers_are_exact():
    assert context_tables.POWERS.tolist() == [power(k) for k in range(32)]


@settings(deadline=None, max_examples=60)
@given(counts=st.lists(st.integers(0, 10**6), min_size=1, max_size=200), bits=st.integers(8, 12))
def test_quantised_frequencies_are_positive_and_fill_the_table(counts, bits):
    frequencies = ans.quantised(np.array(counts), bits)
    assert frequencies.min() >= 1
    assert frequencies.sum() == 1 << bits


# --- damage


@both
@pytest.mark.parametrize("bad", [0, 1, 3, 4, 6])
@pytest.mark.parametrize("damage", ["cut", "head", "word"])
def test_of_several_bad_rows_the_first_is_named(name, bad, damage):
    codec, _ = pair(name, 40, (4, 3))
    coded = codec.encode(textured(9, 40, (4, 3)))
    data, starts, ends = coded.data.copy(), coded.starts, coded.ends.copy()
    for row in (bad, bad + 1, 8):
        if damage == "cut":
            ends[row] = starts[row] + 3
        elif damage == "head":
            data[starts[row] : starts[row] + 4] = 0
        else:
            data[ends[row] - 1] ^= 0x55
    with pytest.raises(CodecError, match=f"row {bad} "):
        codec.decode(data, starts, ends, np.zeros((9, 4, 3), np.uint16))


@both
def test_a_range_outside_the_buffer_is_refused(name):
    codec, _ = pair(name, 40, (4, 3))
    coded = codec.encode(textured(2, 40, (4, 3)))
    out = np.zeros((2, 4, 3), np.uint16)
    with pytest.raises(CodecError, match="row 1"):
        codec.decode(coded.data, coded.starts, coded.ends + np.array([0, 1]), out)
    with pytest.raises(CodecError, match="row 0"):
        codec.decode(coded.data, coded.starts - np.array([1, 0]), coded.ends, out)


def test_nothing_outside_a_payload_is_read():
    """Whatever lies around a cut payload, what comes out is the same."""
    codec, _ = pair("context", 40, (4, 3))
    coded = codec.encode(textured(1, 40, (4, 3)))
    seen = set()
    for around in (0, 85, 255):
        data = np.full(len(coded.data) + 64, around, np.uint8)
        data[32 : 32 + len(coded.data)] = coded.data
        out = np.zeros((1, 4, 3), np.uint16)
        with pytest.raises(CodecError, match="row 0"):
            codec.decode(data, np.array([32]), coded.ends + 30, out)
        seen.add(out.tobytes())
    assert len(seen) == 1


def tables_with(name, size=40, **changes):
    codec, _ = pair(name, size, (2, 2) if size == 4097 else (4, 3))
    tables = {**codec.tables(), **changes}
    return {key: value for key, value in tables.items() if value is not None}, codec


SHORT = np.frombuffer(b"\x28\xb5\x2f\xfd\x20\x01\x09\x00\x00\x00", np.uint8)
WRONG_TABLES = [
    ("rans", 40, {"frequencies": np.ones(40, np.int32)}, "power of two"),
    ("rans", 40, {"frequencies": np.full(64, 64, np.int32)}, "40 positive"),
    ("rans", 40, {"frequencies": np.zeros(40, np.int32)}, "positive"),
    ("rans", 40, {"frequencies": np.ones(40)}, "int32"),
    ("context", 40, {"clusters": None}, "clusters"),
    ("context", 40, {"extra": SHORT}, "extra"),
    ("context", 40, {"clusters": np.zeros((2, 39), np.uint8)}, "clusters"),
    ("context", 40, {"clusters": np.full((2, 40), 200, np.uint8)}, "at most 64"),
    ("context", 40, {"popularity": np.zeros(40, np.int32)}, "popularity"),
    ("context", 40, {"weights": np.zeros(40, np.int16)}, "weights"),
    ("context", 40, {"weights": SHORT}, "not"),
    ("context", 40, {"weights": np.zeros(9, np.uint8)}, "damaged"),
    ("context", 4097, {"tail": None}, "tail"),
    ("context", 4097, {"tail": np.ones(2, np.int32)}, "sum to"),
    ("context", 4097, {"tail": np.array([0, 1 << 20], np.int32)}, "positive"),
]


@pytest.mark.parametrize(("name", "size", "changes", "told"), WRONG_TABLES)
def test_damaged_tables_are_refused(name, size, changes, told):
    tables, codec = tables_with(name, size, **changes)
    with pytest.raises(CodecError, match=told):
        type(codec).from_tables(tables, codec.spec)


def test_a_cut_frame_of_weights_is_refused():
    whole, codec = tables_with("context")
    for end in range(len(whole["weights"])):
        with pytest.raises(CodecError, match="weights"):
            Context.from_tables({**whole, "weights": whole["weights"][:end]}, codec.spec)


@both
def test_a_sample_outside_the_vocabulary_is_refused(name):
    with pytest.raises(CodecError, match="rank 9 .* vocabulary of 9"):
        PAIRS[name][0].fit(np.full((3, 2, 2), 9, np.uint16), CodecSpec(9, (2, 2)))


# --- size


def an_image(codec, grids):
    return len(codec.encode(grids).data) / len(grids)


def test_rans_stays_within_half_a_percent_and_its_state_of_the_entropy():
    rng = np.random.default_rng(0)
    grids = np.minimum(rng.geometric(0.004, (300, 32, 32)), 600).astype(np.uint16) - 1
    counts = np.bincount(grids.ravel(), minlength=600)
    shares = counts[counts > 0] / counts.sum()
    entropy = -(shares * np.log2(shares)).sum() * 1024 / 8
    assert an_image(Rans.fit(grids, CodecSpec(600, (32, 32))), grids) < 1.005 * entropy


@pytest.mark.parametrize("size", [1, 2, 255, 4096, 5000])
def test_codes_without_order_cost_context_no_more_than_rans_and_its_tables(size):
    rng = np.random.default_rng(1)
    grids = rng.integers(0, size, (60, 16, 16)).astype(np.uint16)
    spec = CodecSpec(size, (16, 16))
    plain, context = Rans.fit(grids[:50], spec), Context.fit(grids[:50], spec)
    tables = sum(table.nbytes for table in context.tables().values())
    assert 10 * an_image(context, grids[50:]) <= 10 * an_image(plain, grids[50:]) + tables


def test_grids_with_texture_get_clusters_and_cost_less():
    spec = CodecSpec(200, (16, 16))
    grids = textured(220, 200, (16, 16))
    plain, context = Rans.fit(grids[:200], spec), Context.fit(grids[:200], spec)
    assert context.tables()["clusters"].max() >= 7
    assert an_image(context, grids[200:]) < 0.85 * an_image(plain, grids[200:])


def test_one_image_and_one_code_make_tables_of_one_cluster():
    for grids in (np.zeros((1, 8, 8), np.uint16), np.zeros((50, 8, 8), np.uint16)):
        codec = Context.fit(grids, CodecSpec(1, (8, 8)))
        assert codec.tables()["clusters"].max() == 0
        assert an_image(codec, grids) == 4


def test_the_price_that_the_choice_computes_is_what_payloads_cost():
    grids = textured(200, 200, (16, 16))
    tables = choose(grids[:, None], 200, 200)
    codec = Context(CodecSpec(200, (16, 16)), tables, None)
    assert an_image(codec, grids) == pytest.approx(256 * mean_bits(grids[:, None], tables) / 8 + 3,
                                                   abs=1.5)  # fmt: skip


@pytest.mark.parametrize(("tokens", "most"), [("vqvae_512", 0.76), ("kmeans_4096", 0.73)])
def test_real_tokens_reach_their_mark(reference_tokens, tokens, most):
    """Held-out images with check and index, against the order-0 cross-entropy."""
    train, test, size = reference_tokens(tokens)
    spec = CodecSpec(size, (32, 32))
    shares = (np.bincount(train.ravel(), minlength=size) + 0.5) / train.size
    entropy = -np.log2(shares)[test].mean() * 1024 / 8
    assert an_image(Rans.fit(train, spec), test) <= 1.005 * entropy
    assert an_image(Context.fit(train, spec), test) + 6 <= most * entropy
