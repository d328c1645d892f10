"""The escape code against a slow twin that can be read aloud."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstore.codecs.escape import escape, longest, unescape
from tokenstore.errors import CodecError


def escaped_slowly(ranks):
    """[3, 300] -> b"\\x03\\xff\\x2d"."""
    code = bytearray()
    for rank in ranks:
        while rank >= 255:
            code.append(255)
            rank -= 255
        code.append(rank)
    return bytes(code)


def unescaped_slowly(code):
    """b"\\x03\\xff\\x2d" -> [3, 300]; None where the last rank is not finished."""
    ranks, rank = [], 0
    for byte in code:
        rank += byte
        if byte < 255:
            ranks.append(rank)
            rank = 0
    return ranks if not code or code[-1] < 255 else None


@pytest.mark.parametrize(
    ("rank", "code"),
    [(0, "00"), (254, "fe"), (255, "ff00"), (300, "ff2d"), (509, "fffe"), (510, "ffff00")],
)
def test_single_ranks_are_written_as_the_paper_does(rank, code):
    escaped, ends = escape(np.full((1, 1, 1), rank, np.uint16))
    assert escaped.tobytes().hex() == code
    assert ends.tolist() == [len(code) // 2]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 65535), min_size=4, max_size=40))
def test_the_code_is_that_of_the_slow_twin_and_comes_back(drawn):
    ranks = np.array(drawn[: len(drawn) // 4 * 4], np.uint16).reshape(-1, 2, 2)
    escaped, ends = escape(ranks)
    slow = [escaped_slowly(grid.ravel().tolist()) for grid in ranks]
    assert escaped.tobytes() == b"".join(slow)
    assert ends.tolist() == np.cumsum([len(code) for code in slow]).tolist()
    out = np.empty_like(ranks)
    unescape(escaped, np.append(0, ends)[:-1], ends, 65536, out)
    assert np.array_equal(out, ranks)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=40).map(lambda b: b.replace(b"\x80", b"\xff")))
def test_any_bytes_are_read_or_refused_like_the_slow_twin_does(code):
    expected = unescaped_slowly(code)
    out = np.zeros((1, 6), np.uint16)
    arguments = (np.frombuffer(code, np.uint8), np.array([0]), np.array([len(code)]), 600, out)
    if expected is not None and len(expected) == 6 and max(expected) < 600:
        unescape(*arguments)
        assert out[0].tolist() == expected
    else:
        with pytest.raises(CodecError, match="row 0"):
            unescape(*arguments)


def test_a_wrong_row_is_named():
    escaped = np.array([1, 2, 3, 255], np.uint8)
    with pytest.raises(CodecError, match="row 1 is not the escape code of 2 ranks below 9"):
        unescape(escaped, np.array([0, 2]), np.array([2, 4]), 9, np.empty((2, 2), np.uint16))


@pytest.mark.parametrize(("size", "expected"), [(1, 6), (255, 6), (256, 12), (510, 12), (511, 18)])
def test_the_longest_code_is_that_of_the_last_rank(size, expected):
    assert longest((2, 3), size) == expected
    assert len(escape(np.full((1, 2, 3), size - 1, np.uint16))[0]) == expected
