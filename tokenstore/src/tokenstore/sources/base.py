"""The law of the source: where images come from, before anybody has looked at a pixel.

* A source lists its images once, into splits, without opening any. The listing is the ground of
  everything later: order, parts, labels and the identity of a build.
* Each image has a key that is unique in its split, a label or none, and a size in bytes. Of two
  inputs with one key the later one is listed among the rejects.
* `read` gives the bytes of one listed image, in any order and from several threads at once.
* `load` decodes them into an RGB picture, and `load_mask` gives the mask beside it where there are
  masks. What cannot be used is an `ImageRejected` whose message is the reason; the build goes on
  without that image. Nothing else escapes from a broken image.
* What makes the whole corpus useless (no images, an unreadable folder) is a `SourceError`.

A file of this folder defines one subclass and names it in the module constant `PLUGIN`. Sources
know nothing of tokenizers, resolutions and stores.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from tokenstore.errors import ImageRejected, InputChanged, UsageError

if TYPE_CHECKING:
    from PIL import Image

NAMES = {"JPEG": "JPEG", "PNG": "PNG", "WEBP": "WebP", "BMP": "BMP"}
FORMATS = tuple(NAMES)
# Pillow's own limit for a decompression bomb, so that both draw the line at the same place.
MAX_PIXELS = 89_478_485
MAX_ASPECT = 100
MAX_BYTES = 1 << 28  # of a file; three a pixel, at the most pixels there may be
ORIENTATION_TAG = 0x0112


@dataclass(frozen=True)
class SourceOptions:
    """What a user says of a corpus because it does not say it itself, or says it otherwise.

    Attributes:
        classes: file with the class names in label order.
        masks: folder of the masks, under the names of their images.
        image_column: column of a table with the images, or their paths.
        label_column: column of a table with the labels.
        ignore_index: value of the mask pixels that belong to no class.
    """

    classes: Path | None = None
    masks: str | None = None
    ignore_index: int | None = None
    image_column: str | None = None
    label_column: str | None = None

    def refuse_others(self, kind: str, *known: str) -> None:
        """Refuse options that were given and mean nothing to a kind of source.

        Raises:
            UsageError: names the first of them.
        """
        for option in fields(self):
            if option.name not in known and getattr(self, option.name) is not None:
                flag = option.name.replace("_", "-")
                takes = ", ".join(f"--{name.replace('_', '-')}" for name in known)
                raise UsageError(
                    f"--{flag} has no meaning for a source of kind '{kind}', which takes "
                    f"{takes or 'no such option'}. Leave it out, or name another --source."
                )


NOTHING_SAID = SourceOptions()


class Item(NamedTuple):
    """One image as listed: `path` is the source's own way to find it, `size` its bytes.

    `mask` and `mask_size` are the same of its mask, None and 0 where it has none. `start` is its
    first byte within the file of an archive, and `meta` a JSON object, where there is one.
    """

    key: str
    path: str
    label: int | None
    size: int
    mask: str | None = None
    mask_size: int = 0
    start: int = 0
    meta: str | None = None


class Rejected(NamedTuple):
    """An input that cannot become a sample, and why."""

    split: str
    key: str
    path: str
    reason: str


@dataclass(frozen=True)
class Listing:
    """All images of a source: splits in the source's order, and what was refused while listing.

    Archives are best read in sequence: `runs` says how many images in a row lie in each, by split,
    and `window` how many neighbours may be shuffled; `runs` is empty where images are read in any
    order. Where images have masks, `classes` are those of the masks' pixels, and `ignore_index` is
    the value of pixels that belong to none.
    """

    splits: Mapping[str, tuple[Item, ...]]
    classes: tuple[str, ...] | None
    rejects: tuple[Rejected, ...] = ()
    notes: tuple[str, ...] = ()
    ignore_index: int | None = None
    runs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    window: int = 16_384

    @property
    def has_meta(self) -> bool:
        """Whether any image has metadata."""
        return any(i.meta is not None for items in self.splits.values() for i in items)

    @property
    def has_masks(self) -> bool:
        """Whether images have masks: all of them or none."""
        return any(item.mask is not None for items in self.splits.values() for item in items[:1])

    def sha256(self) -> str:
        """Identity of the input: splits, keys, sizes, labels and class names, not its place."""
        digest = hashlib.sha256()
        for name in self.classes or ():
            digest.update(f"class {name}\n".encode())
        for split, items in sorted(self.splits.items()):
            digest.update(f"split {split} {len(items)}\n".encode())
            for item in items:
                digest.update(f"{item.key}\t{item.label}\t{item.size}\n".encode())
                if item.mask is not None:
                    digest.update(f"mask {item.mask_size}\n".encode())
                if item.meta is not None:
                    digest.update(f"meta {item.meta}\n".encode())
        for reject in self.rejects:
            digest.update(f"reject {reject.split}\t{reject.path}\n".encode())
        if self.ignore_index is not None:
            digest.update(f"ignore {self.ignore_index}\n".encode())
        return digest.hexdigest()


class Source(ABC):
    """A corpus of images; see the law above.

    Attributes:
        general: whether sources that are not, which know a layout exactly, are asked before it
            when a corpus is looked at.
    """

    kind: ClassVar[str]
    general: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def accepts(cls, place: str, options: SourceOptions) -> bool:
        """Whether this kind of source can read what lies at `place`; decides when none is named."""

    @classmethod
    @abstractmethod
    def open(cls, place: str, options: SourceOptions = NOTHING_SAID) -> Self:
        """The source at `place`.

        Args:
            place: path of the corpus.
            options: what the user says of it.

        Raises:
            SourceError: there is nothing readable at `place`, or the class file is damaged.
            UsageError: an option that means nothing to this kind of source.
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
        if item.size > MAX_BYTES:
            raise ImageRejected(f"{item.size:,} bytes are more than {MAX_BYTES:,}")
        try:
            content = self.read(item)
        except ImageRejected as reason:
            if item.size and isinstance(reason.__cause__, FileNotFoundError):
                raise _changed(item, "is gone") from reason
            raise
        if item.size not in (0, len(content)):
            raise _changed(item, f"has {len(content):,} bytes, not {item.size:,}")
        return content

    def load_mask(self, item: Item) -> NDArray[np.uint8] | None:
        """The mask of one image, uint8 [H, W], of its picture's size; None where it has none.

        Raises:
            ImageRejected: it cannot be read or decoded, or holds values of no class.
        """
        return None


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
    with opened_image(data, FORMATS) as image:
        image.load()
        return _as_rgb(_upright(image))


@contextmanager
def opened_image(data: bytes, formats: tuple[str, ...]) -> "Iterator[Image.Image]":
    """An image file whose size is sane, not decoded yet; whatever is wrong with it is a reason.

    Raises:
        ImageRejected: also for anything that goes wrong in what is done with it.
    """
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise ImageRejected("the file is empty")
    try:
        with Image.open(BytesIO(data), formats=formats) as image:
            _check_size(*image.size)
            yield image
    except ImageRejected:
        raise
    except UnidentifiedImageError:
        known = " or ".join(", ".join(NAMES[form] for form in formats).rsplit(", ", 1))
        raise ImageRejected(f"no {known} image") from None
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
