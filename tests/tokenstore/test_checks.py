"""The check of a record against a slow bit-by-bit CRC, and what it catches."""

import binascii

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstore.checks import fits, frame, gather, salt

TABLES = salt("0123456789abcdef" + "0" * 48)


def crc_slowly(data):
    """CRC-16/IBM-3740, a bit at a time; crc_slowly(b"123456789") -> 0x29b1."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc


def record_slowly(payload, number, tables):
    crc = crc_slowly(payload + number.to_bytes(8, "little") + tables.tobytes())
    return payload + crc.to_bytes(2, "little")


def framed(payloads, first=0, tables=TABLES):
    ends = np.cumsum([len(p) for p in payloads], dtype=np.int64)
    return frame(np.frombuffer(b"".join(payloads), np.uint8), ends, first, tables)


def gathered(records, ends, first=0, tables=TABLES):
    numbers = np.arange(first, first + len(ends), dtype=np.uint64)
    return gather(records, np.append(0, ends)[:-1], ends, numbers, tables)


def test_the_slow_twin_has_the_published_check_value():
    assert crc_slowly(b"123456789") == 0x29B1 == binascii.crc_hqx(b"123456789", 0xFFFF)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.binary(max_size=40), max_size=5), st.integers(0, 2**60))
def test_records_are_those_of_the_slow_twin_and_come_back(payloads, first):
    records, ends = framed(payloads, first)
    slow = [record_slowly(p, first + i, TABLES) for i, p in enumerate(payloads)]
    assert records.tobytes() == b"".join(slow)
    back, stops, wrong = gathered(records, ends, first)
    assert back.tobytes() == b"".join(payloads)
    assert stops.tolist() == np.cumsum([len(p) for p in payloads]).tolist()
    assert not wrong.any()


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=40), st.integers(0, 2**60), st.integers(0, 335))
def test_a_single_record_is_checked_as_many_are(payload, number, bit):
    record = record_slowly(payload, number, TABLES)
    assert fits(record, number, TABLES)
    assert not fits(record, number + 1, TABLES)
    assert not fits(record, number, salt(None))
    wrong = bytearray(record)
    wrong[bit // 8 % len(record)] ^= 1 << bit % 8
    assert not fits(bytes(wrong), number, TABLES)
    assert not any(fits(record[:length], number, TABLES) for length in range(2))


def test_every_flipped_bit_is_caught():
    records, ends = framed([b"some payload", b"", b"another one"])
    for bit in range(8 * len(records)):
        damaged = records.copy()
        damaged[bit // 8] ^= 1 << bit % 8
        assert gathered(damaged, ends)[2].sum() == 1


@pytest.mark.parametrize("length", [0, 1])
def test_a_record_without_room_for_its_check_is_wrong(length):
    _, ends, wrong = gathered(np.zeros(length, np.uint8), np.array([length]))
    assert wrong.tolist() == [True]
    assert ends.tolist() == [0]


def test_a_record_of_another_number_or_table_set_is_wrong():
    records, ends = framed([b"payload"], first=7)
    assert not gathered(records, ends, first=7)[2].any()
    assert gathered(records, ends, first=8)[2].all()
    assert gathered(records, ends, first=7, tables=salt(None))[2].all()


def test_records_are_gathered_in_the_order_asked_with_repeats():
    records, ends = framed([b"zero", b"one", b"two"])
    starts, rows = np.append(0, ends)[:-1], np.array([2, 0, 2])
    back, _, wrong = gather(records, starts[rows], ends[rows], rows.astype(np.uint64), TABLES)
    assert back.tobytes() == b"twozerotwo"
    assert not wrong.any()
