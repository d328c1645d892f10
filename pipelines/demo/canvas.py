"""A square canvas that paints a picture and its class mask in one stroke.

Everything is a polygon in unit coordinates (x to the right, y downwards, both 0..1), painted at
twice the final size so that edges come out smooth. A `Frame` is the local drawing paper of one
thing: placed, scaled, mirrored and tilted. Which things there are is not known here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Colour = tuple[float, float, float]  # red, green, blue, 0..1
Point = tuple[float, float]
Field = NDArray[np.float32]  # [n, n] or [n, n, 3]

OVERSAMPLING = 2
DISC_CORNERS = 28


class Canvas:
    """A picture float32 [n, n, 3] in 0..1 with a mask uint8 [n, n], n = 2 x the final size."""

    def __init__(self, size: int) -> None:
        """An empty canvas for a final picture of `size` x `size` pixels."""
        self.size = size
        self.pixels = size * OVERSAMPLING
        self._picture = Image.new("RGB", (self.pixels, self.pixels))
        self._mask = Image.new("L", (self.pixels, self.pixels))

    def polygon(self, points: Sequence[Point], colour: Colour, label: int) -> None:
        """Fill a polygon in the picture and in the mask."""
        corners = [(x * self.pixels, y * self.pixels) for x, y in points]
        ImageDraw.Draw(self._picture).polygon(corners, fill=_bytes(colour))
        ImageDraw.Draw(self._mask).polygon(corners, fill=label)

    def picture(self) -> Field:
        """The picture so far, float32 [n, n, 3] in 0..1."""
        return np.asarray(self._picture, np.float32) / np.float32(255)

    def mask(self) -> NDArray[np.uint8]:
        """The class of each pixel so far, uint8 [n, n]."""
        return np.asarray(self._mask)

    def repaint(self, picture: Field) -> None:
        """Replace the picture, the mask stays: for gradients, textures and light."""
        self._picture = Image.fromarray((picture.clip(0, 1) * 255).astype(np.uint8))

    def finished(self) -> tuple[Field, NDArray[np.uint8]]:
        """Picture float32 [size, size, 3] and mask uint8 [size, size] at the final size."""
        k = OVERSAMPLING
        picture = self.picture().reshape(self.size, k, self.size, k, 3).mean((1, 3))
        return picture.astype(np.float32), np.ascontiguousarray(self.mask()[::k, ::k])


@dataclass(frozen=True)
class Frame:
    """Local paper of one thing: x from -0.5 to 0.5, y from 0 at its foot upwards to 1.

    Attributes:
        canvas: what is painted on.
        foot: where (0, 0) lies on the canvas.
        height: length of the local unit on the canvas.
        label: class that the thing has in the mask.
        mirrored: whether left and right are exchanged.
        tilt: rotation about the foot, in radians.
        light: brightness on the left and on the right; shapes between them are shaded.
    """

    canvas: Canvas
    foot: Point
    height: float
    label: int
    mirrored: bool = False
    tilt: float = 0.0
    light: tuple[float, float] = (1.0, 1.0)

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        """Fill a polygon, a little brighter or darker by where its centre lies."""
        centre = sum(x for x, _ in points) / len(points)
        left, right = self.light[::-1] if self.mirrored else self.light
        gain = left + (right - left) * min(max(centre + 0.5, 0.0), 1.0)
        self.canvas.polygon([self._placed(p) for p in points], scaled(colour, gain), self.label)

    def disc(self, centre: Point, radii: Point, colour: Colour) -> None:
        """Fill an ellipse with axes along the paper's."""
        turns = [2 * math.pi * k / DISC_CORNERS for k in range(DISC_CORNERS)]
        x, y = centre
        edge = [(x + radii[0] * math.cos(t), y + radii[1] * math.sin(t)) for t in turns]
        self.polygon(edge, colour)

    def box(self, left: float, bottom: float, right: float, top: float, colour: Colour) -> None:
        """Fill a rectangle."""
        self.polygon([(left, bottom), (right, bottom), (right, top), (left, top)], colour)

    def column(self, foot: Point, top: Point, colour: Colour, strips: int = 6) -> None:
        """Fill an upright trapezium in strips, so that it looks round.

        `foot` and `top` are (half width, y) of its lower and upper edge, about x = 0.
        """
        for k in range(strips):
            a, b = 2 * k / strips - 1, 2 * (k + 1) / strips - 1
            round_light = 1.08 - 0.5 * ((a + b) / 2 - (-0.25)) ** 2
            corners = [(a * foot[0], foot[1]), (b * foot[0], foot[1])]
            corners += [(b * top[0], top[1]), (a * top[0], top[1])]
            self.polygon(corners, scaled(colour, round_light))

    def line(self, start: Point, end: Point, width: float, colour: Colour) -> None:
        """Fill a straight line."""
        dx, dy = end[0] - start[0], end[1] - start[1]
        length = math.hypot(dx, dy) or 1.0
        nx, ny = -dy / length * width / 2, dx / length * width / 2
        sides = [(start[0] + nx, start[1] + ny), (end[0] + nx, end[1] + ny)]
        sides += [(end[0] - nx, end[1] - ny), (start[0] - nx, start[1] - ny)]
        self.polygon(sides, colour)

    def _placed(self, point: Point) -> Point:
        x = -point[0] if self.mirrored else point[0]
        y = point[1]
        turned = (
            x * math.cos(self.tilt) - y * math.sin(self.tilt),
            x * math.sin(self.tilt) + y * math.cos(self.tilt),
        )
        return (self.foot[0] + turned[0] * self.height, self.foot[1] - turned[1] * self.height)


def noise(rng: np.random.Generator, pixels: int, cells: Point, octaves: int = 3) -> Field:
    """Smooth noise float32 [pixels, pixels], mean about 0, standard deviation 1.

    `cells` is how many bumps fit across and down the canvas; each octave halves their size.
    """
    total = np.zeros((pixels, pixels), np.float32)
    for octave in range(octaves):
        across, down = (max(2, round(c * 2**octave)) for c in cells)
        grid = Image.fromarray(rng.standard_normal((down, across)).astype(np.float32))
        smooth = np.asarray(grid.resize((pixels, pixels), Image.Resampling.BICUBIC))
        total += smooth * np.float32(0.6**octave)
    total -= total.mean()
    total /= max(float(total.std()), 1e-6)
    return total


def scaled(colour: Colour, gain: float) -> Colour:
    """`((0.5, 0.2, 0.9), 2.0) -> (1.0, 0.4, 1.0)`: a brighter or darker colour, clipped."""
    red, green, blue = (min(max(c * gain, 0.0), 1.0) for c in colour)
    return red, green, blue


def blended(one: Colour, other: Colour, share: float) -> Colour:
    """`share` of `other` mixed into `one`."""
    red, green, blue = (a + (b - a) * share for a, b in zip(one, other, strict=True))
    return red, green, blue


def _bytes(colour: Colour) -> tuple[int, int, int]:
    red, green, blue = (round(255 * min(max(c, 0.0), 1.0)) for c in colour)
    return red, green, blue
