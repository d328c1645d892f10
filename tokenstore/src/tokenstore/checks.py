"""The check beside every record: CRC-16 over its bytes, its sample number and its table set.

A record is `payload | crc <u2`. The CRC (polynomial 0x1021, initial value 0xFFFF, most significant
bit first, no final xor: "CRC-16/IBM-3740") covers

    payload | sample number in the split <u8 | first 8 bytes of the table set's SHA-256

so a record that was moved to another place, or is decoded with other tables, fails like one with a
wrong bit. Any single wrong bit and any burst of up to 16 bits is caught; other damage slips through
once in 65,536 records and is left to the block hashes, which `tokenstore verify` checks.
"""

import binascii
import functools

import numpy as np
from numpy.typing import NDArray

from tokenstore.compiled import compiled

POLYNOMIAL = 0x1021
INITIAL = 0xFFFF
BYTES = 2

Bytes = NDArray[np.uint8]
Offsets = NDArray[np.int64]


def salt(tables_sha256: str | None) -> Bytes:
    """What the check covers of a table set, uint8 [8]; zeros where a codec has no tables."""
    return np.frombuffer(bytes.fromhex(tables_sha256 or "00" * 32)[:8], np.uint8)


def frame(payloads: Bytes, ends: Offsets, first: int, tables: Bytes) -> tuple[Bytes, Offsets]:
    """Records of payloads: each with its check behind it.

    Args:
        payloads: uint8 [total]; payload i is payloads[ends[i-1]:ends[i]].
        ends: int64 [n].
        first: sample number in the split of payload 0.
        tables: uint8 [8], the `salt` of the table set.

    Returns:
        The records, uint8 [total + 2n], and their ends, int64 [n].
    """
    starts = starts_of(ends)
    numbers = np.arange(first, first + len(ends), dtype=np.uint64)
    crcs = checksums(payloads, starts, ends, numbers, tables)
    record_ends = ends + BYTES * np.arange(1, len(ends) + 1)
    records = np.empty(len(payloads) + BYTES * len(ends), np.uint8)
    copy_ranges(payloads, starts, ends, records, starts + BYTES * np.arange(len(ends)))
    records[record_ends - 2] = crcs & 0xFF
    records[record_ends - 1] = crcs >> 8
    return records, record_ends


def fits(record: bytes, number: int, tables: Bytes) -> bool:
    """Whether a record `payload | check` has the check of sample `number` of its split."""
    crc = binascii.crc_hqx(record[:-BYTES], INITIAL)
    crc = binascii.crc_hqx(number.to_bytes(8, "little") + tables.tobytes(), crc)
    return crc.to_bytes(BYTES, "little") == record[-BYTES:]


def gather(
    content: Bytes, starts: Offsets, ends: Offsets, numbers: NDArray[np.uint64], tables: Bytes
) -> tuple[Bytes, Offsets, NDArray[np.bool_]]:
    """Copy records out of a file, leaving their checks behind.

    Args:
        content: uint8; record i is content[starts[i]:ends[i]], which must lie inside.
        starts: int64 [n].
        ends: int64 [n].
        numbers: uint64 [n], sample numbers in the split.
        tables: uint8 [8], the `salt` of the table set.

    Returns:
        The payloads one after the other, their ends int64 [n], and which of them fail their check.
    """
    payload_stops = np.maximum(ends - BYTES, starts)
    crcs = checksums(content, starts, payload_stops, numbers, tables)
    wrong = ends - starts < BYTES
    whole = ends[~wrong]
    stored = content[whole - 2].astype(np.uint16) | content[whole - 1].astype(np.uint16) << 8
    wrong[~wrong] = stored != crcs[~wrong]
    payload_ends: Offsets = np.cumsum(payload_stops - starts)
    payloads = np.empty(int(payload_ends[-1]) if len(ends) else 0, np.uint8)
    places = payload_ends - payload_stops + starts
    copy_ranges(content, starts, payload_stops, payloads, places)
    return payloads, payload_ends, wrong


def checksums(
    content: Bytes, starts: Offsets, ends: Offsets, numbers: NDArray[np.uint64], tables: Bytes
) -> NDArray[np.uint16]:
    """The CRC of each payload content[starts[i]:ends[i]] as sample `numbers[i]`, uint16 [n]."""
    crcs = np.empty(len(starts), np.uint16)
    tails = np.empty((len(starts), 16), np.uint8)
    tails[:, :8] = numbers.astype("<u8").view(np.uint8).reshape(len(starts), 8)
    tails[:, 8:] = tables
    _checksums(content, starts, ends, tails, _slicing_tables(), crcs)
    return crcs


def starts_of(ends: Offsets) -> Offsets:
    """Where each of some ranges begins that lie one after the other: [3, 5] -> [0, 3]."""
    starts = np.zeros(len(ends), np.int64)
    starts[1:] = ends[:-1]
    return starts


@functools.cache
def _slicing_tables() -> NDArray[np.uint16]:
    """Table k gives the CRC of one byte followed by k zero bytes, uint16 [8, 256]."""
    tables = np.zeros((8, 256), np.uint16)
    for byte in range(256):
        value = byte << 8
        for _ in range(8):
            value = (value << 1 ^ POLYNOMIAL if value & 0x8000 else value << 1) & 0xFFFF
        tables[0, byte] = value
    for k in range(1, 8):
        tables[k] = (tables[k - 1] << 8) ^ tables[0, tables[k - 1] >> 8]
    return tables


@compiled
def copy_ranges(
    source: Bytes, starts: Offsets, ends: Offsets, target: Bytes, places: Offsets
) -> None:
    """Copy source[starts[i]:ends[i]] to target[places[i]:...]; all must lie inside."""
    for i in range(len(starts)):
        target[places[i] : places[i] + ends[i] - starts[i]] = source[starts[i] : ends[i]]


@compiled
def _checksums(
    content: Bytes,
    starts: Offsets,
    ends: Offsets,
    tails: Bytes,
    slicing: NDArray[np.uint16],
    crcs: NDArray[np.uint16],
) -> None:
    """CRC of each range and its tail; linear, so eight looked-up parts xor to one step."""
    for i in range(len(starts)):
        crc = np.uint16(INITIAL)
        for part in range(2):
            covered = content[starts[i] : ends[i]] if part == 0 else tails[i]
            at = 0
            while at + 8 <= len(covered):
                crc = (
                    slicing[7, covered[at] ^ (crc >> 8)]
                    ^ slicing[6, covered[at + 1] ^ (crc & 0xFF)]
                    ^ slicing[5, covered[at + 2]]
                    ^ slicing[4, covered[at + 3]]
                    ^ slicing[3, covered[at + 4]]
                    ^ slicing[2, covered[at + 5]]
                    ^ slicing[1, covered[at + 6]]
                    ^ slicing[0, covered[at + 7]]
                )
                at += 8
            while at < len(covered):
                crc = np.uint16(crc << 8) ^ slicing[0, covered[at] ^ (crc >> 8)]
                at += 1
        crcs[i] = crc
