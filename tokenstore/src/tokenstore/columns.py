"""How the values of a column become the bytes of a block, and back; both halves side by side.

    fixed    label, view   the numbers of the block, <u1, <u2 or <u4, one after the other
    packed   key, meta     the block's strings, joined by newlines, as one zstd frame
    records  mask          one a sample: height <u2 | width <u2 | zstd frame of height x width bytes
    records  ranks         one a sample: what the split's codec made of the grid

Checks, offsets and files are the business of `shard` and `index`; ranks that of the codecs.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from tokenstore.errors import CodecError, CorruptStore

LEVEL = 19
MASK_LEVEL = 15  # of CamVid's masks 3% more than 19 leaves, in a ninth of its time
PACKED_LIMIT = 1 << 28  # bytes of one block's strings; a larger claim is damage, not data

Bytes = NDArray[np.uint8]
Offsets = NDArray[np.int64]


def fixed_bytes(values: NDArray[np.integer[Any]], dtype: str) -> bytes:
    """Numbers as little-endian bytes of this width.

    Raises:
        CodecError: a number does not fit.
    """
    if len(values) and not 0 <= int(values.min()) <= int(values.max()) <= np.iinfo(dtype).max:
        wrong = int(values.min()) if int(values.min()) < 0 else int(values.max())
        raise CodecError(f"{wrong} does not fit a column of type {dtype}")
    return values.astype(dtype).tobytes()


def packed_bytes(strings: Sequence[str]) -> bytes:
    """The strings of a block as one zstd frame.

    Raises:
        CodecError: a string with a newline or that is not valid Unicode, or too many bytes.
    """
    for string in strings:
        if "\n" in string:
            raise CodecError(f"{string!r} holds a newline, which separates the strings of a block")
    try:
        joined = "\n".join(strings).encode()
    except UnicodeEncodeError as error:
        raise CodecError(f"a string of the block is not valid Unicode: {error}") from error
    if len(joined) > PACKED_LIMIT:
        raise CodecError(f"the strings of a block take {len(joined)} bytes, at most {PACKED_LIMIT}")
    return zstandard.ZstdCompressor(level=LEVEL).compress(joined)


def packed_strings(content: bytes, count: int, where: str) -> list[str]:
    """The `count` strings of a block.

    Raises:
        CorruptStore: the frame is damaged or holds another number of strings.
    """
    try:
        size = zstandard.frame_content_size(content)
        if not 0 <= size <= PACKED_LIMIT:
            raise CorruptStore(f"{where}: the frame claims {size} bytes")
        joined = zstandard.ZstdDecompressor().decompress(content).decode()
    except (zstandard.ZstdError, UnicodeDecodeError) as error:
        raise CorruptStore(f"{where}: {error}") from error
    strings = joined.split("\n")
    if len(strings) != count:
        raise CorruptStore(f"{where} holds {len(strings)} strings, expected {count}")
    return strings


def json_line(value: Mapping[str, Any]) -> str:
    """Canonical JSON on one line, for the column `meta`."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def mask_payload(mask: NDArray[np.uint8]) -> bytes:
    """A mask, uint8 [H, W], as a record of it begins.

    Raises:
        CodecError: a mask of another type, or larger than 65,535 on a side.
    """
    if mask.dtype != np.uint8 or mask.ndim != 2 or max(mask.shape) > 0xFFFF:
        raise CodecError(f"expected a mask uint8 [H, W], got {mask.dtype} {list(mask.shape)}")
    header = np.array(mask.shape, "<u2").tobytes()
    return header + zstandard.ZstdCompressor(level=MASK_LEVEL).compress(mask.tobytes())


def joined(payloads: Sequence[bytes]) -> tuple[Bytes, Offsets]:
    """Payloads one after the other: their bytes and their ends, int64 [n]."""
    ends = np.cumsum([len(payload) for payload in payloads], dtype=np.int64)
    return np.frombuffer(b"".join(payloads), np.uint8), ends


def mask_of(payload: bytes, where: str) -> NDArray[np.uint8]:
    """The mask of one payload, uint8 [H, W].

    Raises:
        CorruptStore: the payload is damaged.
    """
    height, width = np.frombuffer(payload[:4].ljust(4, b"\0"), "<u2").tolist()
    try:
        if zstandard.frame_content_size(payload[4:]) != height * width:
            raise CorruptStore(f"{where}: the frame does not hold {height} x {width} bytes")
        pixels = zstandard.ZstdDecompressor().decompress(payload[4:])
    except zstandard.ZstdError as error:
        raise CorruptStore(f"{where}: {error}") from error
    return np.frombuffer(pixels, np.uint8).reshape(height, width)
