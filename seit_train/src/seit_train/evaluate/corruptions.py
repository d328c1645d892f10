"""Corruptions by the definitions of ImageNet-C (Hendrycks and Dietterich, arXiv 1903.12261).

Kinds and the parameters of their five levels are those of the published benchmark. They act on the
picture as the model's preprocessing leaves it, where the benchmark acts on 224x224 crops and keeps
the result as JPEG files of quality 85; what it draws at random is drawn here from seed, kind, level
and the picture's number. Weather other than brightness, glass, motion and elastic distortion need
pictures or programs of their own: for these there are the published folders (docs/evaluation.md).
"""

import io
import re
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from kornia.color import hsv_to_rgb, rgb_to_hsv
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from seit_train.evaluate.gallery import Change, Decoded
from tokenstore.errors import UnknownName, UsageError

Pixels = NDArray[np.float64]  # [H,W,3], 0..1
Corrupt = Callable[[Pixels, int, np.random.Generator], Pixels]  # level 0..4 counts from 0 here

LEVELS = range(1, 6)


class Corruption(NamedTuple):
    """A kind of corruption, and its levels of 1 to 5 that are asked for."""

    kind: str
    levels: tuple[int, ...]


def parse_corruption(text: str) -> Corruption:
    """`"gaussian_noise:1-5"`, `"contrast:3"`, `"fog:1,3,5"`, or a kind alone for all levels.

    Raises:
        UnknownName: no such kind.
        UsageError: levels that are none of 1 to 5.
    """
    kind, colon, wanted = text.partition(":")
    if kind not in KINDS:
        raise UnknownName("corruption", kind, KINDS)
    levels: list[int] = []
    for part in (wanted if colon else "1-5").split(","):
        found = re.fullmatch(r"([1-5])(?:-([1-5]))?", part.strip())
        if found is None:
            raise UsageError(
                f"corruption '{text}': levels are 1 to 5, as in {kind}:1-5, {kind}:3 or {kind}:1,5"
            )
        levels += range(int(found[1]), int(found[2] or found[1]) + 1)
    return Corruption(kind, tuple(sorted(set(levels))))


def corruption_change(kind: str, level: int, seed: int) -> Change:
    """What does one level of a kind to every picture of a gallery.

    Args:
        kind: one of `KINDS`.
        level: 1 to 5.
        seed: of what is drawn.
    """
    words = [seed, zlib.crc32(kind.encode()), level]

    def change(decoded: Decoded) -> NDArray[np.uint8]:
        pairs = zip(decoded.images, decoded.numbers.tolist(), strict=True)
        return np.stack(
            [corrupt(image, kind, level, np.random.default_rng([*words, n])) for image, n in pairs]
        )

    return change


def corrupt(
    image: NDArray[np.uint8], kind: str, level: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """One picture, uint8 [H,W,3], at a level of 1 to 5. Fractions are cut off, as published."""
    pixels = KINDS[kind](image / 255.0, level - 1, rng)
    # The last bits of a float must not cost a level of grey where nothing was changed.
    return (np.clip(pixels, 0, 1) * 255 + 1e-6).astype(np.uint8)


def gaussian_noise(pixels: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    """Added normal noise."""
    return pixels + rng.normal(scale=(0.08, 0.12, 0.18, 0.26, 0.38)[level], size=pixels.shape)


def shot_noise(pixels: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    """Poisson noise of few photons."""
    photons = (60, 25, 12, 5, 3)[level]
    return rng.poisson(pixels * photons) / photons


def impulse_noise(pixels: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    """Values that become 0 or 1, each channel of a pixel by itself."""
    is_lost = rng.random(pixels.shape) < (0.03, 0.06, 0.09, 0.17, 0.27)[level]
    return np.where(is_lost, rng.integers(0, 2, pixels.shape).astype(float), pixels)


def speckle_noise(pixels: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    """Noise in proportion to the value; one of the benchmark's extra kinds."""
    return pixels * (1 + rng.normal(scale=(0.15, 0.2, 0.35, 0.45, 0.6)[level], size=pixels.shape))


def gaussian_blur(pixels: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    """A Gaussian cut off at four deviations, edges repeated; one of the benchmark's extra kinds."""
    deviation = (1, 2, 3, 4, 6)[level]
    weights = _gaussian(4 * deviation, deviation)
    rows = _filtered(pixels, weights[:, None], "edge")
    return _filtered(rows, weights[None], "edge")


def defocus_blur(pixels: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    """A disk as a lens out of focus makes it, its rim softened."""
    radius, softness = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[level]
    reach, rim = (8, 1) if radius <= 8 else (radius, 2)
    places = np.arange(-reach, reach + 1)
    disk = (places[:, None] ** 2 + places**2 <= radius**2).astype(float)
    edge = _gaussian(rim, softness)
    soft = _filtered((disk / disk.sum())[..., None], np.outer(edge, edge), "reflect")
    return _filtered(pixels, soft[..., 0], "reflect")


def zoom_blur(pixels: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    """The mean of a picture and of ever larger details of its middle."""
    end, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[level]
    factors = np.arange(1, end, step)
    layers = [pixels, *(_zoomed(pixels, factor) for factor in factors)]
    mean: Pixels = np.mean(layers, axis=0)
    return mean


def brightness(pixels: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    """A higher value in HSV."""
    hue, saturation, value = _to_hsv(pixels)
    return _from_hsv(hue, saturation, (value + (0.1, 0.2, 0.3, 0.4, 0.5)[level]).clamp(0, 1))


def saturate(pixels: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    """Another saturation in HSV, lower at levels 1 and 2; one of the benchmark's extra kinds."""
    factor, more = ((0.3, 0.0), (0.1, 0.0), (2.0, 0.0), (5.0, 0.1), (20.0, 0.2))[level]
    hue, saturation, value = _to_hsv(pixels)
    return _from_hsv(hue, (saturation * factor + more).clamp(0, 1), value)


def contrast(pixels: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    """Values closer to the mean of their channel."""
    means = pixels.mean(axis=(0, 1), keepdims=True)
    paler: Pixels = (pixels - means) * (0.4, 0.3, 0.2, 0.1, 0.05)[level] + means
    return paler


def jpeg_compression(pixels: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    """A JPEG file of low quality."""
    file = io.BytesIO()
    _as_image(pixels).save(file, "JPEG", quality=(25, 18, 15, 10, 7)[level])
    return np.asarray(Image.open(file)) / 255.0


def pixelate(pixels: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    """Fewer pixels, enlarged again as squares."""
    share, (height, width) = (0.6, 0.5, 0.4, 0.3, 0.25)[level], pixels.shape[:2]
    small = max(1, int(width * share)), max(1, int(height * share))
    fewer = _as_image(pixels).resize(small, Image.Resampling.BOX)
    return np.asarray(fewer.resize((width, height), Image.Resampling.BOX)) / 255.0


KINDS: dict[str, Corrupt] = {
    kind.__name__: kind
    for kind in (
        gaussian_noise,
        shot_noise,
        impulse_noise,
        speckle_noise,
        gaussian_blur,
        defocus_blur,
        zoom_blur,
        brightness,
        saturate,
        contrast,
        jpeg_compression,
        pixelate,
    )
}


def _as_image(pixels: Pixels) -> Image.Image:
    return Image.fromarray(np.round(pixels * 255).astype(np.uint8))


def _gaussian(reach: int, deviation: float) -> NDArray[np.float64]:
    """Weights that sum to 1, [2 * reach + 1]."""
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    normalised: NDArray[np.float64] = weights / weights.sum()
    return normalised


def _filtered(pixels: Pixels, weights: NDArray[np.float64], edges: str) -> Pixels:
    """Every channel of [H,W,c] correlated with weights of odd sides, at the same size."""
    down, across = (side // 2 for side in weights.shape)
    padded = np.pad(pixels, ((down, down), (across, across), (0, 0)), mode=edges)  # type: ignore[call-overload]
    channels = torch.from_numpy(padded).permute(2, 0, 1)[:, None]
    filtered = functional.conv2d(channels, torch.from_numpy(weights)[None, None])
    return filtered[:, 0].permute(1, 2, 0).numpy()


def _zoomed(pixels: Pixels, factor: float) -> Pixels:
    """The middle of a picture, bilinearly enlarged to all of it."""
    size = np.array(pixels.shape[:2])
    kept = np.ceil(size / factor).astype(int)
    top, left = (size - kept) // 2
    middle = pixels[top : top + kept[0], left : left + kept[1]]
    larger = [int(side) for side in np.round(kept * factor)]
    channels = torch.from_numpy(middle.copy()).permute(2, 0, 1)[None]
    enlarged = functional.interpolate(channels, larger, mode="bilinear", align_corners=True)
    found: Pixels = enlarged[0].permute(1, 2, 0).numpy()
    top, left = (np.array(larger) - size) // 2
    return found[top : top + size[0], left : left + size[1]]


def _to_hsv(pixels: Pixels) -> tuple[torch.Tensor, ...]:
    return rgb_to_hsv(torch.from_numpy(pixels).permute(2, 0, 1)).unbind(0)


def _from_hsv(*channels: torch.Tensor) -> Pixels:
    found: Pixels = hsv_to_rgb(torch.stack(channels)).permute(1, 2, 0).numpy()
    return found
