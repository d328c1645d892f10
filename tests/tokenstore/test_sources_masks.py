"""Mask files: the numbers in them, whatever kind of PNG they are; and what is refused."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from tests.toy_images import encoded
from tokenstore.errors import ImageRejected
from tokenstore.sources.masks import MaskRule, decode_mask

VALUES = np.array([[0, 1, 1], [3, 2, 0]], np.uint8)


def test_grey_values_are_classes() -> None:
    assert np.array_equal(decode_mask(encoded(Image.fromarray(VALUES), "PNG")), VALUES)


def test_of_a_palette_the_numbers_count_and_not_the_colours() -> None:
    image = Image.fromarray(VALUES).convert("P")
    image.putdata(VALUES.ravel().tolist())
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    assert np.array_equal(decode_mask(encoded(image, "PNG")), VALUES)


def test_one_bit_is_two_classes() -> None:
    image = Image.fromarray(VALUES > 0)
    assert np.array_equal(decode_mask(encoded(image, "PNG")), VALUES > 0)


@pytest.mark.parametrize("bits", [2, 4])
def test_few_bits_of_grey_are_not_stretched(bits: int) -> None:
    import struct
    import zlib

    packed = {2: [0b00010100, 0b11100000], 4: [0x01, 0x10, 0x32, 0x00]}[bits]
    rows = np.array(packed, np.uint8).reshape(2, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", 3, 2, bits, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(c)) + name + c + struct.pack(">I", zlib.crc32(name + c))
        for name, c in chunks
    )
    assert np.array_equal(decode_mask(png), VALUES)


def test_sixteen_bits_are_read_if_they_fit_a_byte() -> None:
    wide = Image.fromarray(VALUES.astype(np.uint16))
    assert np.array_equal(decode_mask(encoded(wide, "PNG")), VALUES)
    wide = Image.fromarray(VALUES.astype(np.uint16) * 200)
    with pytest.raises(ImageRejected, match="value 600"):
        decode_mask(encoded(wide, "PNG"))


def test_colours_a_jpeg_and_damage_are_refused() -> None:
    with pytest.raises(ImageRejected, match="channels R, G, B"):
        decode_mask(encoded(Image.new("RGB", (2, 2)), "PNG"))
    with pytest.raises(ImageRejected, match="no PNG image"):
        decode_mask(encoded(Image.new("L", (2, 2)), "JPEG"))
    sound = encoded(Image.fromarray(VALUES), "PNG")
    with pytest.raises(ImageRejected):
        decode_mask(sound[: len(sound) // 2])
    with pytest.raises(ImageRejected, match="empty"):
        decode_mask(b"")


def test_values_are_held_to_the_classes_and_the_ignored_one() -> None:
    png = encoded(Image.fromarray(VALUES), "PNG")
    assert np.array_equal(MaskRule(4, None).read(png), VALUES)
    assert np.array_equal(MaskRule(3, 3).read(png), VALUES)
    with pytest.raises(ImageRejected, match="value 3, which is none of its 3 classes"):
        MaskRule(3, None).read(png)
    with pytest.raises(ImageRejected, match="not the ignored one"):
        MaskRule(3, 255).read(png)


def test_a_meaning_renames_values_and_refuses_those_without_one() -> None:
    png = encoded(Image.fromarray(VALUES), "PNG")
    meaning = bytes([255, 0, 1, 2]).ljust(256, b"\xfe")
    found = MaskRule(3, 255, meaning).read(png)
    assert found.tolist() == [[255, 0, 0], [2, 1, 255]]
    with pytest.raises(ImageRejected, match=r"value 3, .*values 0 to 2"):
        MaskRule(2, 255, bytes([255, 0, 1]).ljust(256, b"\xfe")).read(png)


def test_a_mask_of_absurd_size_is_refused() -> None:
    buffer = BytesIO()
    Image.new("1", (40_000, 40_000)).save(buffer, "PNG")
    with pytest.raises(ImageRejected, match="pixels"):
        decode_mask(buffer.getvalue())
