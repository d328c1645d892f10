"""Crops: cutting boxes out of grids, and resizing them, as gathers and small matrix products.

The geometry that the crop augmentations and the centre crop of evaluation share; no augmentation
itself. A crop followed by a bicubic resize is linear in rows and in columns, so on embedded grids
it is `W_y @ E @ W_x^T` with two small matrices an image; from ranks, the sparse `E @ W_x^T` comes
straight out of the codebook. It equals cropping and then
`interpolate(mode="bicubic", align_corners=False)`: taps outside the box are clamped to its edge.
"""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from seit_train.augment.base import Embedder
from tokenstore.errors import TrainingError

Positive = Annotated[int, Field(gt=0)]
CropSize = Positive | tuple[Positive, Positive] | None

_CUBIC = -0.75  # the kernel's free parameter, as torch's bicubic interpolation has it
# Images whose products a CPU makes at a time: what lies between the two then stays in its caches.
_BLOCK = 8
_TAPS = 4  # places between which the cubic kernel interpolates
_ATTEMPTS = 10  # boxes tried for each image before the fallback, as torchvision does


def refuse_larger(size: tuple[int, int], grid: tuple[int, int]) -> None:
    """Refuse a crop that does not fit.

    Raises:
        TrainingError: the size is larger than the grid.
    """
    if size[0] > grid[0] or size[1] > grid[1]:
        raise TrainingError(
            f"a crop of {size[0]}x{size[1]} does not fit a grid of {grid[0]}x{grid[1]}. "
            "Set a smaller size in the recipe's augment list."
        )


def center_crop(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle of ranks [B,h,w] or grids [B,d,h,w]; of two middles the upper left one."""
    top, left = (tokens.shape[-2] - size[0]) // 2, (tokens.shape[-1] - size[1]) // 2
    return tokens[..., top : top + size[0], left : left + size[1]]


def cut(tokens: Tensor, top: Tensor, left: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes of one size, each image at its own place.

    Args:
        tokens: ranks [B,h,w] or grids [B,d,h,w].
        top: int64 [B], the first row of each box.
        left: int64 [B], its first column.
        size: rows and columns of every box.
    """
    rows = top[:, None, None] + torch.arange(size[0], device=tokens.device)[:, None]
    columns = left[:, None, None] + torch.arange(size[1], device=tokens.device)
    image = torch.arange(len(tokens), device=tokens.device)[:, None, None]
    if tokens.ndim == 3:
        return tokens[image, rows, columns]
    return tokens.permute(0, 2, 3, 1)[image, rows, columns].permute(0, 3, 1, 2)


def draw_boxes(
    tokens: Tensor, scale: tuple[float, float], ratio: tuple[float, float], rng: torch.Generator
) -> Tensor:
    """Boxes of random resized crops, by torchvision's rule, all images at once.

    An area (share of the grid, uniform in `scale`) and a shape (width by height, log-uniform in
    `ratio`) are drawn up to ten times until the box fits; after that it is the largest centred
    box whose shape is allowed.

    Args:
        tokens: ranks [B,h,w] or grids [B,d,h,w], looked at for their shape and device only.
        scale: smallest and largest area.
        ratio: narrowest and widest shape.
        rng: on the device of the tokens.

    Returns:
        Int64 [B,4]: top, left, height, width.
    """
    batch, rows, columns = len(tokens), tokens.shape[-2], tokens.shape[-1]
    area, shape, down, across = torch.rand(
        (4, batch, _ATTEMPTS), generator=rng, device=tokens.device, dtype=torch.float64
    )
    area = rows * columns * (scale[0] + area * (scale[1] - scale[0]))
    shape = (math.log(ratio[0]) + shape * math.log(ratio[1] / ratio[0])).exp()
    height, width = (area / shape).sqrt().round(), (area * shape).sqrt().round()
    fits = (height >= 1) & (height <= rows) & (width >= 1) & (width <= columns)
    top = (down * (rows - height + 1)).floor()
    left = (across * (columns - width + 1)).floor()
    tried = torch.stack([top, left, height, width], dim=-1).long()
    first = fits.int().argmax(dim=1)
    drawn = tried.take_along_dim(first[:, None, None], dim=1)[:, 0]
    fallback = torch.stack(
        [torch.full_like(drawn[:, 0], side) for side in _centred_box((rows, columns), ratio)], dim=1
    )
    return torch.where(fits.any(dim=1)[:, None], drawn, fallback)


def resize_boxes(grid: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Crop each image to its box and resize it bicubically: float [B,d,h,w] -> [B,d,*size].

    Args:
        grid: embedded grids.
        boxes: int64 [B,4]: top, left, height, width.
        size: rows and columns of the result.
    """
    last = grid.permute(0, 2, 3, 1)
    across = resize_matrix(boxes[:, 1], boxes[:, 3], grid.shape[3], size[1]).to(grid.dtype)
    down = resize_matrix(boxes[:, 0], boxes[:, 2], grid.shape[2], size[0]).to(grid.dtype)
    resized = grid.new_empty(len(grid), *size, grid.shape[1])
    for some in _blocks(boxes):
        columns = across[some, None] @ last[some]
        torch.bmm(down[some], columns.flatten(2), out=resized[some].flatten(2))
    return resized.permute(0, 3, 1, 2)


def embed_boxes(ranks: Tensor, embed: Embedder, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """`resize_boxes` of the embedded grid, which never exists: int64 [B,h,w] -> [B,d,*size].

    Four ranks and their weights make a vector between columns, so embedding is half of the resize.

    Args:
        ranks: the grids.
        embed: of their codebook.
        boxes: int64 [B,4]: top, left, height, width.
        size: rows and columns of the result.
    """
    rows = ranks.shape[1]
    taps, weights = resize_taps(boxes[:, 1], boxes[:, 3], size[1])
    down = resize_matrix(boxes[:, 0], boxes[:, 2], rows, size[0])
    resized = down.new_empty(len(ranks), *size, embed.width)
    for some in _blocks(boxes):
        places = taps[some].flatten(1)[:, None].expand(-1, rows, -1)
        shares = weights[some, None].expand(-1, rows, -1, -1)
        near = ranks[some].gather(2, places)
        columns = embed.blend(near.view(-1, _TAPS), shares.reshape(-1, _TAPS))
        columns = columns.view(-1, rows, size[1] * embed.width)
        torch.bmm(down[some], columns, out=resized[some].flatten(2))
    return resized.permute(0, 3, 1, 2)


def resize_taps(start: Tensor, length: Tensor, target: int) -> tuple[Tensor, Tensor]:
    """Between which places those of a resized cut [start, start+length) lie, and how near.

    Args:
        start: int64 [B], first place of the cut.
        length: int64 [B], its length.
        target: places after.

    Returns:
        Int64 [B,target,4], places before; float32 [B,target,4], their weights, which sum to 1.
    """
    place = torch.arange(target, device=start.device) + 0.5
    position = length[:, None].double() / target * place - 0.5
    below = position.floor()
    past = position - below
    weights = torch.stack([_outer(1 + past), _inner(past), _inner(1 - past), _outer(2 - past)], -1)
    taps = below.long()[..., None] + torch.arange(-1, _TAPS - 1, device=start.device)
    taps = taps.clamp(min=0).minimum((length - 1)[:, None, None]) + start[:, None, None]
    return taps, weights.float()


def resize_matrix(start: Tensor, length: Tensor, source: int, target: int) -> Tensor:
    """Matrices that cut [start, start+length) out of `source` places and resize it to `target`.

    Args:
        start: int64 [B], first place of the cut.
        length: int64 [B], its length.
        source: places before.
        target: places after.

    Returns:
        Float32 [B,target,source]; every row sums to 1.
    """
    taps, weights = resize_taps(start, length, target)
    empty = weights.new_zeros(len(start), target, source)
    # One scatter a tap: at the edge taps share a place, and which of them came last must not count.
    return sum(
        (empty.scatter(2, taps[..., k, None], weights[..., k, None]) for k in range(_TAPS)), empty
    )


def _blocks(boxes: Tensor) -> list[slice]:
    """Images that are resized together."""
    step = len(boxes) if boxes.is_cuda else _BLOCK
    return [slice(start, start + step) for start in range(0, len(boxes), step)]


def _inner(x: Tensor) -> Tensor:
    """The cubic kernel at a distance of at most 1."""
    return ((_CUBIC + 2) * x - (_CUBIC + 3)) * x * x + 1


def _outer(x: Tensor) -> Tensor:
    """The cubic kernel at a distance from 1 to 2."""
    return ((_CUBIC * x - 5 * _CUBIC) * x + 8 * _CUBIC) * x - 4 * _CUBIC


def _centred_box(grid: tuple[int, int], ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    """((16, 32), (3/4, 4/3)) -> top 0, left 5, height 16, width 21."""
    rows, columns = grid
    shape = columns / rows
    height = min(rows, round(columns / ratio[0])) if shape < ratio[0] else rows
    width = min(columns, round(rows * ratio[1])) if shape > ratio[1] else columns
    return (rows - height) // 2, (columns - width) // 2, height, width
