"""Every form of image file becomes upright RGB; every broken one is rejected with its reason."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.toy_images import BLUE, GREEN, ORIENTATION, RED, WHITE, encoded, halves, picture
from tokenstore.errors import ImageRejected
from tokenstore.sources.base import (
    MAX_ASPECT,
    Item,
    Listing,
    decode_image,
    printable,
    reject_repeated_keys,
)


def close(image: Image.Image, place: tuple[int, int], colour: tuple[int, int, int]) -> bool:
    assert image.mode == "RGB"
    return bool(np.abs(np.subtract(image.getpixel(place), colour)).max() <= 4)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP"])
def test_every_format_is_decoded_to_rgb(form: str) -> None:
    image = decode_image(encoded(halves(RED, BLUE), form, quality=95))
    assert image.size == (32, 16)
    assert close(image, (2, 8), RED)
    assert close(image, (29, 8), BLUE)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_png_modes_without_alpha_keep_their_colours(mode: str) -> None:
    image = decode_image(encoded(halves((0, 0, 0), WHITE).convert(mode), "PNG"))
    assert close(image, (2, 8), (0, 0, 0))
    assert close(image, (29, 8), WHITE)


def test_a_grey_jpeg_and_a_cmyk_jpeg_become_rgb() -> None:
    assert close(decode_image(encoded(Image.new("L", (16, 16), 100))), (8, 8), (100, 100, 100))
    cmyk = Image.new("RGB", (16, 16), (200, 30, 90)).convert("CMYK")
    assert close(decode_image(encoded(cmyk, quality=100)), (8, 8), (200, 30, 90))


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_transparent_pixels_are_laid_on_white(form: str) -> None:
    image = Image.new("RGBA", (16, 16), (255, 0, 0, 128))
    image.paste((0, 0, 255, 0), (8, 0, 16, 16))
    decoded = decode_image(encoded(image, form, lossless=True))
    assert close(decoded, (2, 8), (255, 127, 127))
    assert close(decoded, (12, 8), WHITE)


def test_grey_with_alpha_is_laid_on_white() -> None:
    decoded = decode_image(encoded(Image.new("LA", (8, 8), (0, 0)), "PNG"))
    assert close(decoded, (4, 4), WHITE)


def test_a_palette_with_a_transparent_colour_is_laid_on_white() -> None:
    image = Image.new("P", (16, 16), 0)
    image.putpalette([*RED, *GREEN])
    image.paste(1, (8, 0, 16, 16))
    decoded = decode_image(encoded(image, "PNG", transparency=0))
    assert close(decoded, (2, 8), WHITE)
    assert close(decoded, (12, 8), GREEN)


def test_sixteen_bit_grey_is_scaled_and_not_clipped() -> None:
    ramp = np.array([[0, 257, 32896, 65535]], np.uint16).repeat(4, 0)
    decoded = np.asarray(decode_image(encoded(Image.fromarray(ramp), "PNG")))
    assert decoded[0].tolist() == [[v, v, v] for v in (0, 1, 128, 255)]


@pytest.mark.parametrize(
    ("orientation", "size", "top_left"),
    [(1, (32, 16), RED), (3, (32, 16), BLUE), (6, (16, 32), RED), (8, (16, 32), BLUE)],
)
def test_exif_orientation_is_applied(
    orientation: int, size: tuple[int, int], top_left: tuple[int, int, int]
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    decoded = decode_image(encoded(halves(RED, BLUE), exif=exif, quality=95))
    assert decoded.size == size
    assert close(decoded, (2, 2), top_left)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_cost_the_image() -> None:
    data = encoded(halves(RED, BLUE), exif=b"Exif\0\0II*\0" + b"\xff" * 20, quality=95)
    assert close(decode_image(data), (2, 8), RED)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_a_truncated_file_is_rejected(form: str, share: float) -> None:
    data = encoded(picture(1, (200, 160)), form)
    with pytest.raises(ImageRejected):
        decode_image(data[: int(len(data) * share)])


@pytest.mark.parametrize("data", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF"])
def test_what_is_no_image_is_rejected(data: bytes) -> None:
    with pytest.raises(ImageRejected):
        decode_image(data)


def test_a_format_outside_the_four_is_rejected_by_name() -> None:
    with pytest.raises(ImageRejected, match="no JPEG, PNG, WebP or BMP image"):
        decode_image(encoded(halves(RED, BLUE), "GIF"))


def png_claiming(width: int, height: int) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(9500, 9500), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_rejected_before_it_is_decoded(size: tuple[int, int]) -> None:
    with pytest.raises(ImageRejected, match="more than 89,478,485 pixels"):
        decode_image(png_claiming(*size))


def test_a_sliver_is_rejected_with_its_size() -> None:
    with pytest.raises(ImageRejected, match="1x101 is narrower than 1:100"):
        decode_image(encoded(Image.new("RGB", (1, MAX_ASPECT + 1)), "PNG"))


def test_every_flipped_byte_of_a_file_gives_an_image_or_a_reject() -> None:
    for form in ("JPEG", "PNG", "WEBP", "BMP"):
        data = encoded(picture(2, (16, 16)), form)
        for place in range(0, len(data), 7):
            damaged = bytearray(data)
            damaged[place] ^= 0xFF
            try:
                assert decode_image(bytes(damaged)).mode == "RGB"
            except ImageRejected as reason:
                assert str(reason)


def test_printable_escapes_what_is_no_utf8_and_line_feeds() -> None:
    assert printable("caf\udce9\n.jpg") == "caf%E9%0A.jpg"
    assert printable("naïve/ö.jpg") == "naïve/ö.jpg"


def test_the_later_of_two_equal_keys_is_rejected_and_names_the_first() -> None:
    items = [Item("a", "a.jpg", 0, 1), Item("b", "b.jpg", 0, 1), Item("a", "a.png", 0, 1)]
    kept, rejects = reject_repeated_keys("train", items)
    assert [item.path for item in kept] == ["a.jpg", "b.jpg"]
    assert rejects == (("train", "a", "a.png", "its key is already that of a.jpg"),)


def test_the_listing_hash_sees_keys_sizes_labels_and_classes() -> None:
    def digest(item: Item, classes: tuple[str, ...] = ("x", "y")) -> str:
        return Listing({"train": (item,)}, classes).sha256()

    item = Item("a", "a.jpg", 0, 10)
    others = [item._replace(key="b"), item._replace(label=1), item._replace(size=11)]
    hashes = {digest(item), digest(item, ("y", "x")), *map(digest, others)}
    assert len(hashes) == 5
    assert digest(item) == digest(item._replace(path="elsewhere/a.jpg"))
