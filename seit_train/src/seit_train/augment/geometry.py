"""Geometry: flips, turns, shifts, shears and resized crops as one warp an image, through kornia.

What TokenAdapt does in its adapted space, and what its training does to the pictures themselves, so
one description has to fit both: a matrix that takes a place of the result to a place of the source,
in coordinates from -1 to 1 along each side, whatever the resolution. No augmentation itself.
"""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from seit_train.config import Settings, Share
from seit_train.models.masking import hash32

# What a pair of training shows: nothing, one of the five alone, or all with their chances.
KINDS = ("identity", "flip", "rotation", "translation", "shear", "crop", "all")
_ALONE = 5
_COLUMNS = 12  # uniform numbers that one image's warp takes


class Geometry(Settings):
    """How far, and how often; the defaults are published, but for `scale`, which is that of MTM.

    Attributes:
        flip_p: chance of a mirrored image.
        p: chance of each of rotation, translation and shear.
        degrees: largest angle of rotation.
        translate: largest shift, as a share of each side.
        shear: largest angle of the horizontal shear, in degrees.
        scale: smallest and largest area of the resized crop, as shares of the image.
        ratio: narrowest and widest shape of the crop, width by height.
    """

    flip_p: Share = 0.5
    p: Share = 0.5
    degrees: Annotated[float, Field(ge=0, le=180)] = 30.0
    translate: Share = 0.2
    shear: Annotated[float, Field(ge=0, lt=90)] = 15.0
    scale: tuple[Share, Share] = (0.2, 1.0)
    ratio: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (3 / 4, 4 / 3)


def draw_warps(
    batch: Tensor, grid: tuple[int, int], geometry: Geometry, rng: torch.Generator
) -> Tensor:
    """Warps of a batch by their chances, float32 [B,3,3]; the crop is always there."""
    numbers = torch.rand(len(batch), _COLUMNS, generator=rng, device=batch.device)
    return _warps(numbers, _by_chance(numbers, geometry), grid, geometry)


def pair_warps(index: Tensor, kinds: Tensor, grid: tuple[int, int]) -> Tensor:
    """The warps of training pairs: a pure function of sample number and kind.

    Args:
        index: int64 [B], sample numbers in their split.
        kinds: int64 [B], places in `KINDS`.
        grid: (h, w), for its shape only: tokens and pixels give the same.

    Returns:
        Float32 [B,3,3].
    """
    column = torch.arange(_COLUMNS, device=index.device)
    numbers = hash32(index[:, None] * _COLUMNS + column).double() / 2**32
    numbers, geometry = numbers.float(), Geometry()
    alone = kinds[:, None] == 1 + torch.arange(_ALONE, device=index.device)
    is_all = (kinds == len(KINDS) - 1)[:, None]
    return _warps(numbers, alone | is_all & _by_chance(numbers, geometry), grid, geometry)


def warp(images: Tensor, warps: Tensor, size: tuple[int, int], mode: str = "bilinear") -> Tensor:
    """Look up each place of the result in its image; outside of it there is nothing, zero.

    Args:
        images: float [B,c,h,w].
        warps: float32 [B,3,3], from places of the result to places of the image.
        size: rows and columns of the result.
        mode: "bilinear", "nearest" or "bicubic".
    """
    from kornia.geometry.transform import homography_warp  # seconds, for those who warp only

    with torch.autocast(images.device.type, enabled=False):  # places need more than 8 bits
        warped: Tensor = homography_warp(
            images, warps.to(images.dtype), size, mode=mode, align_corners=False
        )
    return warped


def _by_chance(numbers: Tensor, geometry: Geometry) -> Tensor:
    """Bool [B,5]: what happens to an image, in the order of `KINDS` without its ends."""
    turned = numbers[:, 1:4] < geometry.p
    flipped = numbers[:, :1] < geometry.flip_p
    return torch.cat([flipped, turned, torch.ones_like(flipped)], dim=1)


def _warps(numbers: Tensor, active: Tensor, grid: tuple[int, int], geometry: Geometry) -> Tensor:
    """The warps that uniform numbers [B,12] stand for, where bool [B,5] lets them act.

    A place of the result goes back through crop, shear, translation, rotation and flip.
    """
    flip, rotation, translation, shear, crop = active.float().unbind(1)
    signed = 2 * numbers[:, 4:8] - 1
    angle = rotation * signed[:, 0] * math.radians(geometry.degrees)
    slope = (shear * signed[:, 3] * math.radians(geometry.shear)).tan()
    shift = 2 * geometry.translate * translation[:, None] * signed[:, 1:3]
    none, one = torch.zeros_like(angle), torch.ones_like(angle)
    shape = grid[1] / grid[0]  # turns and shears keep their angle where sides differ
    cos, sin = angle.cos(), angle.sin()
    turn = _matrix([cos, sin / shape, none], [-sin * shape, cos, none])
    move = _matrix([one, none, -shift[:, 0]], [none, one, -shift[:, 1]])
    lean = _matrix([one, -slope / shape, none], [none, one, none])
    mirror = _matrix([1 - 2 * flip, none, none], [none, one, none])
    return mirror @ turn @ move @ lean @ _crops(numbers[:, 8:], crop, shape, geometry)


def _crops(numbers: Tensor, active: Tensor, shape: float, geometry: Geometry) -> Tensor:
    """Crops that uniform numbers [B,4] stand for; a side longer than the image's is cut to it."""
    area = geometry.scale[0] + numbers[:, 0] * (geometry.scale[1] - geometry.scale[0])
    low, high = (math.log(ratio) for ratio in geometry.ratio)
    ratio = (low + numbers[:, 1] * (high - low)).exp() / shape
    width = torch.lerp(torch.ones_like(area), (area * ratio).sqrt().clamp(max=1), active)
    height = torch.lerp(torch.ones_like(area), (area / ratio).sqrt().clamp(max=1), active)
    none = torch.zeros_like(area)
    left, top = (1 - width) * (2 * numbers[:, 2] - 1), (1 - height) * (2 * numbers[:, 3] - 1)
    return _matrix([width, none, left], [none, height, top])


def _matrix(first: list[Tensor], second: list[Tensor]) -> Tensor:
    """Two rows of numbers [B] each -> [B,3,3], the third row being 0, 0, 1."""
    last = [torch.zeros_like(first[0]), torch.zeros_like(first[0]), torch.ones_like(first[0])]
    return torch.stack([torch.stack(row, dim=1) for row in (first, second, last)], dim=1)
