"""The numbers of a ViT-VQGAN, read from its tensors and checked against its yaml.

Nearly all of them are sizes of tensors. Two are not: how wide a head is (64 unless the yaml says
else, as in the published code) and the sides of an image that is no square. A yaml that
contradicts the tensors is refused: the two belong to different models.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch

from tokenstore.errors import WeightsError
from tokenstore.tokenizers.evidence import Evidence, count_members
from tokenstore.tokenizers.vit_blocks import TransformerShape

DIM_HEAD = 64


def transformer_shape(evidence: Evidence, half: str) -> TransformerShape:
    """The shape of the transformer of a half, "encoder" or "decoder".

    Raises:
        WeightsError: a tensor that tells it is missing, or the yaml contradicts.
    """
    block = f"{half}.transformer.layers.0"
    rows, dim = evidence.size(f"{block}.0.fn.to_qkv.weight", 2)
    mlp_dim = evidence.size(f"{block}.1.fn.net.0.weight", 2)[0]
    depth = count_members(evidence.tensors, f"{half}.transformer.layers")
    evidence.check({f"{half}.dim": dim, f"{half}.depth": depth, f"{half}.mlp_dim": mlp_dim})
    heads, dim_head = _heads(evidence, half, rows)
    return TransformerShape(dim, depth, heads, dim_head, mlp_dim)


def grid_shape(evidence: Evidence, half: str, table: str, patch_size: int) -> tuple[int, int]:
    """Cells (h, w) of a half's position table: a square, unless the yaml gives other sides.

    Raises:
        WeightsError: the table has no such number of cells.
    """
    cells = evidence.size(f"{half}.{table}", 3)[1]
    said = evidence.said("image_size")
    side = math.isqrt(cells)
    if said is None:
        if side * side == cells:
            return (side, side)
        raise WeightsError(
            f"'{evidence.file}': position table '{half}.{table}' has {cells} cells, which are no "
            "square; give the model's yaml with --config, for the sides of its images (image_size)."
        )
    sides = said if isinstance(said, list) else [said, said]
    if not _are_pixels(sides, patch_size):
        raise WeightsError(
            f"{evidence.said_so} image_size is {said!r}, expected one side or [height, width] in "
            f"pixels, multiples of the weights' patch size {patch_size}."
        )
    grid = (sides[0] // patch_size, sides[1] // patch_size)
    if grid[0] * grid[1] != cells:
        square = f", a square of {side * patch_size} pixels" if side * side == cells else ""
        raise evidence.contradicted("image_size", f"{cells} cells in '{half}.{table}'{square}")
    return grid


def patch_size(evidence: Evidence, name: str) -> int:
    """Side of a patch, from the kernel [dim, 3, side, side] called `name`.

    Raises:
        WeightsError: patches are no squares, images not RGB, or the yaml contradicts.
    """
    _, channels, height, width = evidence.size(name, 4)
    if height != width or channels != 3:
        raise WeightsError(
            f"'{evidence.file}': tensor '{name}' takes patches of {height}x{width} pixels in "
            f"{channels} channels; only square patches of RGB images are served."
        )
    said = evidence.said("patch_size")
    evidence.check({"patch_size": [height, width] if isinstance(said, list) else height})
    return height


def with_present_names(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors by the names of today: until 2022-07-18 the last norms were called otherwise.

    `encoder.norm.weight -> encoder.transformer.norm.weight`
    """
    old = re.compile(r"^(encoder|decoder)\.norm\.(?=weight$|bias$)")
    return {old.sub(r"\1.transformer.norm.", name): value for name, value in tensors.items()}


def _heads(evidence: Evidence, half: str, rows: int) -> tuple[int, int]:
    """Heads and width of a head of `to_qkv` with these rows, 3 * heads * dim_head."""
    name = f"{half}.transformer.layers.0.0.fn.to_qkv.weight"
    said = evidence.said(f"{half}.dim_head")
    dim_head = DIM_HEAD if said is None else said
    if not isinstance(dim_head, int) or dim_head < 1 or rows % (3 * dim_head):
        told = "is 64 unless a yaml says else" if said is None else f"is {said!r} by the yaml"
        raise WeightsError(
            f"'{evidence.file}': tensor '{name}' has {rows} rows, no multiple of 3 x "
            f"{half}.dim_head, which {told}; give the model's own yaml with --config."
        )
    heads = rows // 3 // dim_head
    if evidence.said(f"{half}.heads") not in (None, heads):
        found = f"{heads} of {half}.dim_head {dim_head} (inner width {rows // 3})"
        raise evidence.contradicted(f"{half}.heads", found)
    return heads, dim_head


def _are_pixels(sides: Any, patch_size: int) -> bool:
    if not isinstance(sides, list) or len(sides) != 2:
        return False
    return all(type(side) is int and side > 0 and side % patch_size == 0 for side in sides)
