"""Bilinear resizing of 8-bit images in fixed point, as OpenCV's INTER_LINEAR rounds it.

Models that were trained behind OpenCV (taming's VQGANs, through albumentations) saw these pixels,
so their tokens need them to the last bit; no other library rounds alike. The rule, of each side:

    place   (i + 0.5) / scale - 0.5, in double, then held in float32; `scale` is new / old
    weights two a place, of 11 fractional bits: round(2048 (1 - f)) and round(2048 f), half to even
    across  left w0 + right w1, kept with its 11 bits; beyond an edge the edge pixel stands alone
    down    ((w0 (upper >> 4)) >> 16) + ((w1 (lower >> 4)) >> 16), then + 2 and >> 2

There is no antialiasing: shrinking looks at two pixels a side, however many it skips. To exactly
half of both sides OpenCV takes the rounded mean of 2x2 pixels instead. Compared with OpenCV itself:
docs/log.md, 2026-11-21. Which part of an image is kept is not this module's business.
"""

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]  # [h, w, 3]
Places = NDArray[np.intp]
Weights = NDArray[np.int32]

ONE = 2048  # 11 fractional bits


def resize_window(
    image: Picture, resized: tuple[int, int], start: tuple[int, int], size: tuple[int, int]
) -> Picture:
    """A window of a resized image, uint8 [*size, 3].

    Args:
        image: uint8 [h, w, 3].
        resized: (H, W) of the whole resized image, in pixels.
        start: (y, x) of the window's upper left pixel in it.
        size: (H, W) of the window.

    Example:
        >>> grey = np.full((8, 6, 3), 77, np.uint8)
        >>> resize_window(grey, (5, 4), (1, 0), (4, 4)).shape
        (4, 4, 3)
    """
    height, width = image.shape[:2]
    rows, columns = (np.arange(first, first + n) for first, n in zip(start, size, strict=True))
    if (height, width) == resized:
        return image[np.ix_(rows, columns)]
    if (height, width) == (2 * resized[0], 2 * resized[1]):
        return _means(image, rows, columns)
    left, across = _places(columns, width, resized[1])
    outside = (left < 0) | (left >= width - 1)
    across[:, outside] = [[ONE], [0]]
    right = np.clip(left + 1, 0, width - 1)
    left = np.clip(left, 0, width - 1)

    def crossed(y: Places) -> NDArray[np.int32]:
        """Rows y of the image, resized across, with 11 fractional bits."""
        some = image.take(np.clip(y, 0, height - 1), axis=0)
        w0, w1 = across[..., None]
        return np.asarray(some.take(left, axis=1) * w0 + some.take(right, axis=1) * w1, np.int32)

    upper, down = _places(rows, height, resized[0])
    w0, w1 = down[..., None, None]
    sums = ((w0 * (crossed(upper) >> 4)) >> 16) + ((w1 * (crossed(upper + 1) >> 4)) >> 16)
    return np.asarray((sums + 2) >> 2, np.uint8)


def _places(outputs: NDArray[np.int_], old: int, new: int) -> tuple[Places, Weights]:
    """For pixels of the new side: the pixel before each in the old one, and two weights [2, n]."""
    scale = 1 / (new / old)  # not old / new: OpenCV rounds twice
    places = ((outputs + 0.5) * scale - 0.5).astype(np.float32)
    before = np.floor(places)
    share = places - before
    weights = np.stack([np.float32(1) - share, share]) * np.float32(ONE)
    return before.astype(np.intp), np.rint(weights).astype(np.int32)


def _means(image: Picture, rows: NDArray[np.int_], columns: NDArray[np.int_]) -> Picture:
    """The rounded means of 2x2 pixels, at rows and columns of the halved image."""
    y, x = 2 * rows, 2 * columns
    corners = ((y, x), (y, x + 1), (y + 1, x), (y + 1, x + 1))
    sums = sum(image[np.ix_(*corner)].astype(np.uint16) for corner in corners)
    return ((np.asarray(sums) + 2) >> 2).astype(np.uint8)
