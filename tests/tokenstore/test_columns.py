"""Values of a column to the bytes of a block and back."""

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstore import columns
from tokenstore.columns import (
    fixed_bytes,
    joined,
    json_line,
    mask_of,
    mask_payload,
    packed_bytes,
    packed_strings,
)
from tokenstore.errors import CodecError, CorruptStore

LINES = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=20)


@settings(deadline=None, max_examples=50)
@given(st.lists(LINES, min_size=1, max_size=20))
def test_strings_come_back(strings):
    assert packed_strings(packed_bytes(strings), len(strings), "here") == strings


def test_a_block_of_strings_is_a_stock_zstd_frame():
    assert zstandard.decompress(packed_bytes(["a/é", "", "b"])) == "a/é\n\nb".encode()


def test_a_block_of_strings_has_a_limit(monkeypatch):
    monkeypatch.setattr(columns, "PACKED_LIMIT", 6)
    assert columns.packed_bytes(["abc", "de"])
    with pytest.raises(CodecError, match="take 7 bytes, at most 6"):
        columns.packed_bytes(["abc", "def"])


@pytest.mark.parametrize("string", ["two\nlines", "lone \ud800 surrogate"])
def test_strings_that_cannot_be_packed_are_refused(string):
    with pytest.raises(CodecError):
        packed_bytes(["fine", string])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (packed_bytes(["a", "b"]), "2 strings, expected 3"),
        (packed_bytes(["abc"] * 3)[:-1], "here"),
        (b"no frame", "here"),
        (b"", "here"),
        (zstandard.compress(b"\xff\xfe\n\n"), "here.*decode"),
        (b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 8 + b"\1\0\0", "claims"),
    ],
)
def test_damaged_strings_are_refused(content, complaint):
    with pytest.raises(CorruptStore, match=complaint):
        packed_strings(content, 3, "here")


def test_a_frame_that_hides_its_size_is_refused():
    compressor = zstandard.ZstdCompressor(write_content_size=False)
    with pytest.raises(CorruptStore, match="claims -1 bytes"):
        packed_strings(compressor.compress(b"a"), 1, "here")


@pytest.mark.parametrize(("dtype", "largest"), [("<u1", 255), ("<u2", 65535), ("<u4", 4294967295)])
def test_numbers_take_their_width_in_little_endian_order(dtype, largest):
    assert fixed_bytes(np.array([1, largest]), dtype) == np.array([1, largest], dtype).tobytes()
    for wrong in (-1, largest + 1):
        with pytest.raises(CodecError, match=f"{wrong} does not fit"):
            fixed_bytes(np.array([0, wrong]), dtype)


def test_no_numbers_make_no_bytes():
    assert fixed_bytes(np.zeros(0, np.int64), "<u1") == b""


def test_metadata_stays_on_one_line():
    assert json_line({"b": 1, "a": "x\ny"}) == '{"a":"x\\ny","b":1}'


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4))
def test_masks_of_any_size_come_back(sizes):
    rng = np.random.default_rng(0)
    masks = [rng.integers(0, 256, size).astype(np.uint8) for size in sizes]
    payloads, ends = joined([mask_payload(mask) for mask in masks])
    for mask, payload in zip(masks, np.split(payloads, ends[:-1]), strict=True):
        assert np.array_equal(mask_of(payload.tobytes(), "here"), mask)


@pytest.mark.parametrize(
    "mask", [np.zeros((2, 2), np.int64), np.zeros(4, np.uint8), np.zeros((65536, 1), np.uint8)]
)
def test_arrays_that_are_no_masks_are_refused(mask):
    with pytest.raises(CodecError, match="expected a mask"):
        mask_payload(mask)


def test_damaged_masks_are_refused_or_keep_their_size():
    payload = mask_payload(np.arange(12, dtype=np.uint8).reshape(3, 4))
    for end in range(len(payload)):
        with pytest.raises(CorruptStore):
            mask_of(payload[:end], "here")
    for bit in range(8 * len(payload)):
        damaged = bytearray(payload)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            mask = mask_of(bytes(damaged), "here")
        except CorruptStore:
            continue
        assert mask.size == 12
