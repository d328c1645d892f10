"""The law of the source: where images come from, before anybody has looked at a pixel.

* A source lists its images once, into splits, without opening any. The listing is the ground of
  everything later: order, parts, labels and the identity of a build.
* Each image has a key that is unique in its split, a label or none, and a size in bytes. Of two
  inputs with one key the later one is listed among the rejects.
* `read` gives the bytes of one listed image, in any order and from several threads at once.
* `load` decodes them into an RGB picture. What cannot be used is an `ImageRejected` whose message
  is the reason; the build goes on without that image. Nothing else escapes from a broken image.
* What makes the whole corpus useless (no images, an unreadable folder) is a `SourceError`.

A file of this folder defines one subclass and names it in the module constant `PLUGIN`. Sources
know nothing of tokenizers, resolutions and stores.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

import numpy as np

from tokenstore.errors import ImageRejected, InputChanged

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
# Pillow's own limit for a decompression bomb, so that both draw the line at the same place.
MAX_PIXELS = 89_478_485
MAX_ASPECT = 100
ORIENTATION_TAG = 0x0112


class Item(NamedTuple):
    """One image as listed: `path` is the source's own way to find it, `size` its bytes."""

    key: str
    path: str
    label: int | None
    size: int


class Rejected(NamedTuple):
    """An input that cannot become a sample, and why."""

    split: str
    key: str
    path: str
    reason: str


@dataclass(frozen=True)
class Listing:
    """All images of a source: splits in the source's order, and what was refused while listing."""

    splits: Mapping[str, tuple[Item, ...]]
    classes: tuple[str, ...] | None
    rejects: tuple[Rejected, ...] = ()
    notes: tuple[str, ...] = ()

    def sha256(self) -> str:
        """Identity of the input: splits, keys, sizes, labels and class names, not its place."""
        digest = hashlib.sha256()
        for name in self.classes or ():
            digest.update(f"class {name}\n".encode())
        for split, items in sorted(self.splits.items()):
            digest.update(f"split {split} {len(items)}\n".encode())
            for item in items:
                digest.update(f"{item.key}\t{item.label}\t{item.size}\n".encode())
        for reject in self.rejects:
            digest.update(f"reject {reject.split}\t{reject.path}\n".encode())
        return digest.hexdigest()


class Source(ABC):
    """A corpus of images; see the law above."""

    kind: ClassVar[str]

    @classmethod
    @abstractmethod
    def accepts(cls, place: str) -> bool:
        """Whether this kind of source can read what lies at `place`; decides when none is named."""

    @classmethod
    @abstractmethod
    def open(cls, place: str, classes: Path | None = None) -> Self:
        """The source at `place`.

        Args:
            place: path of the corpus.
            classes: file with the class names in label order, instead of the corpus' own.

        Raises:
            SourceError: there is nothing readable at `place`, or the class file is damaged.
        """

    @abstractmethod
    def listing(self) -> Listing:
        """All images, listed without opening one; the same corpus gives the same listing.

        Raises:
            SourceError: no images, an unreadable folder, or folders that contradict each other.
        """

    @abstractmethod
    def read(self, item: Item) -> bytes:
        """The file of one image, as it lies in the source.

        Raises:
            ImageRejected: it cannot be read.
        """

    def load(self, item: Item) -> "Image.Image":
        """One image as an RGB picture, upright.

        Raises:
            ImageRejected: it cannot be read or decoded; the message is the reason.
        """
        return decode_image(self.read_planned(item))

    def read_planned(self, item: Item) -> bytes:
        """As `read`, but of an image that is still what it was when it was listed.

        A listed size of 0 says nothing: the source does not know it, or it is a broken link.

        Raises:
            ImageRejected: it cannot be read.
            InputChanged: it is gone, or of another size.
        """
        try:
            content = self.read(item)
        except ImageRejected as reason:
            if item.size and isinstance(reason.__cause__, FileNotFoundError):
                raise _changed(item, "is gone") from reason
            raise
        if item.size not in (0, len(content)):
            raise _changed(item, f"has {len(content):,} bytes, not {item.size:,}")
        return content


def _changed(item: Item, what: str) -> InputChanged:
    return InputChanged(
        f"'{printable(item.path)}' {what}: the input has changed since it was listed. Put it back, "
        "or delete the unfinished build and begin anew; nothing was guessed."
    )


def reject_repeated_keys(
    split: str, items: Iterable[Item]
) -> tuple[tuple[Item, ...], tuple[Rejected, ...]]:
    """Keep the first item of each key; the later ones become rejects that name the first."""
    first: dict[str, Item] = {}
    rejects = []
    for item in items:
        earlier = first.setdefault(item.key, item)
        if earlier is not item:
            reason = f"its key is already that of {printable(earlier.path)}"
            rejects.append(Rejected(split, item.key, printable(item.path), reason))
    return tuple(first.values()), tuple(rejects)


def printable(name: str) -> str:
    r"""A file name as UTF-8 text on one line; undecodable bytes and line feeds are %-escaped.

    `"caf\udce9\n.jpg" -> "caf%E9%0A.jpg"`
    """
    if name.isascii() and "\n" not in name:
        return name
    undecodable = range(0xDC80, 0xDD00)  # what os.fsdecode makes of the bytes 0x80..0xFF
    return "".join(
        f"%{ord(c) - 0xDC00:02X}" if ord(c) in undecodable else "%0A" if c == "\n" else c
        for c in name
    )


def decode_image(data: bytes) -> "Image.Image":
    """Decode a JPEG, PNG, WebP or BMP file into an upright RGB picture.

    Transparency is laid on white, 16-bit grey is scaled to 8 bits, EXIF orientation is applied.

    Raises:
        ImageRejected: no such file, a damaged one, or one of absurd size.
    """
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise ImageRejected("the file is empty")
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            _check_size(*image.size)
            image.load()
            return _as_rgb(_upright(image))
    except ImageRejected:
        raise
    except UnidentifiedImageError:
        raise ImageRejected("no JPEG, PNG, WebP or BMP image") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageRejected(f"more than {MAX_PIXELS:,} pixels") from None
    # Pillow's decoders raise many kinds of error on damaged files; each costs this image only.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ImageRejected(f"damaged image ({reason})") from error


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageRejected(f"{width}x{height} is more than {MAX_PIXELS:,} pixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageRejected(f"{width}x{height} is narrower than 1:{MAX_ASPECT}")


def _upright(image: "Image.Image") -> "Image.Image":
    """Turn an image as its EXIF orientation says; EXIF that cannot be read turns nothing."""
    from PIL import ImageOps

    try:
        orientation = image.getexif().get(ORIENTATION_TAG, 1)
        return ImageOps.exif_transpose(image) if orientation != 1 else image
    # The pixels of such an image are sound, only its notes are not: no reason to lose it.
    except Exception:
        return image


def _as_rgb(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    if image.mode.startswith("I"):  # 16-bit grey, in Pillow's modes I, I;16 and I;16B
        grey = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8))
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
