"""Single image files through a tokenizer: to ids, and back to pictures that show what is lost.

`tokenstore encode` and `tokenstore roundtrip` stand on it. Unlike a build it skips nothing: a file
that cannot be used ends the work. Stores, splits and labels are not its business.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tokenstore.errors import ImageRejected, SourceError
from tokenstore.sources.base import decode_image

if TYPE_CHECKING:
    from tokenstore.tokenizers.base import Tokenizer

Picture = NDArray[np.uint8]  # [H, W, 3]

AT_ONCE = 16  # images that are encoded together


@dataclass(frozen=True)
class Encoded:
    """One image file: the picture that the tokenizer saw, and its ids, int64 [h, w]."""

    path: Path
    picture: Picture
    ids: NDArray[np.int64]


@dataclass(frozen=True)
class Roundtrip:
    """One image file, there and back; `psnr` in dB."""

    path: Path
    picture: Picture
    decoded: Picture
    psnr: float


def read_picture(path: Path, tokenizer: "Tokenizer") -> Picture:
    """An image file at the tokenizer's resolution, uint8 [H, W, 3].

    Raises:
        SourceError: it cannot be read, or is no image; names it.
    """
    try:
        return tokenizer.preprocess(decode_image(path.read_bytes()))
    except ImageRejected as reason:
        raise SourceError(f"'{path}' cannot be used: {reason}. Give images only.") from reason
    except OSError as error:
        raise SourceError(f"'{path}' cannot be read: {error.strerror or error}") from error


def encode_files(paths: Sequence[Path], tokenizer: "Tokenizer") -> Iterator[Encoded]:
    """Encode image files in their order.

    Raises:
        SourceError: see `read_picture`.
    """
    for start in range(0, len(paths), AT_ONCE):
        some = paths[start : start + AT_ONCE]
        pictures = np.stack([read_picture(path, tokenizer) for path in some])
        ids = tokenizer.encode(pictures).numpy()
        yield from map(Encoded, some, pictures, ids)


def decode_again(encoded: Iterable[Encoded], tokenizer: "Tokenizer") -> Iterator[Roundtrip]:
    """Decode what was encoded, one image after the other."""
    for one in encoded:
        decoded = tokenizer.to_uint8(tokenizer.decode(one.ids[None]))[0]
        yield Roundtrip(one.path, one.picture, decoded, psnr(one.picture, decoded))


def psnr(picture: Picture, other: Picture) -> float:
    """Peak signal-to-noise ratio of two uint8 pictures in dB; 100 at most, as for equal ones."""
    error = float(np.square(picture.astype(np.float64) - other).mean())
    return min(100.0, 10 * math.log10(255**2 / error)) if error else 100.0
