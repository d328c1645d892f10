"""Where the last block looks: attention of every head from chosen patches, as the LUT paper shows.

For every model with a token ViT whose input is a grid. Nothing is masked here.
"""

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from seit_train.evaluate.trained import Trained
from seit_train.models.vit import TokenViT
from seit_train.report.blocks import Figure, Frame, Gallery, Text
from seit_train.report.encoder import encoder_of, last_attention, policy_of
from seit_train.report.material import Material
from seit_train.report.sections.base import Findings, Section
from tokenstore.report.gallery import data_uri

IMAGES = 3
PATCHES = ((0.5, 0.5), (0.25, 0.3), (0.75, 0.7))  # down and across, as shares of the sides
# From dark to light, even steps of lightness: black, violet, red, orange, pale yellow.
_HEAT = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]])
_MARK, _SHADOW = np.array([90, 255, 170], np.uint8), np.zeros(3, np.uint8)


class AttentionMaps(Section):
    """Maps of every head of the last block, for a few patches of a few images."""

    title = "Attention of the last block"
    order = 30

    @classmethod
    def serves(cls, trained: Trained) -> bool:
        """Models with a token ViT."""
        return encoder_of(trained) is not None

    @classmethod
    def look(cls, material: Material, sample: int) -> Findings:
        """Draw the maps, each with its own scale."""
        trained = material.trained
        encoder, policy = cast(TokenViT, encoder_of(trained)), policy_of(trained)
        numbers = material.numbers(min(IMAGES, sample))
        batch = material.batch(numbers)
        with trained.computing():
            tokens = policy.to(batch.ranks.device).plain(batch.ranks)
            weights = last_attention(encoder, tokens).cpu()
        pictures = material.paint(batch.ranks, policy.size)
        figures = []
        for place, name in enumerate(material.names(numbers)):
            for spot in PATCHES:
                query = tuple(int(s * n) for s, n in zip(spot, encoder.positions, strict=True))
                frames = head_frames(pictures[place], weights[place], query, encoder.positions)
                figures.append(Figure(frames, name, f"patch {query[0] + 1}, {query[1] + 1}"))
        reach = _reach(weights[:, :, 1:, 1:], encoder.positions)
        text = (
            "What each head attends to from the patch that is outlined in the first picture: "
            "bright is much, and every map has its own scale. How far a head looks on average, in "
            "patches: "
            + ", ".join(f"head {head + 1} {far:.1f}" for head, far in enumerate(reach))
            + "."
        )
        blocks = Text(text), Gallery(tuple(figures), style="many")
        return Findings(blocks, {"mean_distance_by_head": reach})


def head_frames(
    picture: NDArray[np.uint8], weights: Tensor, query: tuple[int, ...], sides: tuple[int, int]
) -> tuple[Frame, ...]:
    """The picture with the patch outlined, then one map a head.

    Args:
        picture: uint8 [H,W,3].
        weights: float32 [heads,1+N,1+N], the class token first.
        query: row and column of the patch.
        sides: rows and columns of patches.
    """
    row = 1 + query[0] * sides[1] + query[1]
    maps = weights[:, row, 1:].unflatten(1, sides)
    frames = [Frame(data_uri(outlined(picture, query, sides)), "patch")]
    for head, weight in enumerate(maps):
        frames.append(Frame(data_uri(heated(picture, weight)), f"head {head + 1}"))
    return tuple(frames)


def outlined(
    picture: NDArray[np.uint8], query: tuple[int, ...], sides: tuple[int, int]
) -> NDArray[np.uint8]:
    """A copy with a frame around a patch."""
    marked = picture.copy()
    spans = []
    for axis in (0, 1):
        start = query[axis] * picture.shape[axis] // sides[axis]
        spans.append(slice(start, (query[axis] + 1) * picture.shape[axis] // sides[axis]))
    kept = picture[tuple(spans)].copy()
    for wider, colour in ((3, _SHADOW), (2, _MARK)):  # seen on dark and on light pictures
        frame = tuple(slice(max(span.start - wider, 0), span.stop + wider) for span in spans)
        marked[frame] = colour
    marked[tuple(spans)] = kept
    return marked


def heated(picture: NDArray[np.uint8], weight: Tensor) -> NDArray[np.uint8]:
    """A picture in grey below the colours of a map float32 [rows,columns]."""
    size = picture.shape[:2]
    large = functional.interpolate(weight[None, None], size, mode="bilinear")[0, 0]
    share = (large / large.max().clamp(min=1e-12)).numpy()
    stops = np.linspace(0, 1, len(_HEAT))
    colours = np.stack([np.interp(share, stops, _HEAT[:, c]) for c in range(3)], axis=2)
    grey = picture.mean(axis=2, keepdims=True)
    mixed: NDArray[np.uint8] = (0.35 * grey + 0.65 * colours).clip(0, 255).astype(np.uint8)
    return mixed


def _reach(weights: Tensor, sides: tuple[int, int]) -> list[float]:
    """Mean distance from query to key by head, weighted by attention, in patches."""
    ys, xs = torch.meshgrid(*(torch.arange(side) for side in sides), indexing="ij")
    places = torch.stack([ys.flatten(), xs.flatten()], dim=1).float()
    far = (weights * torch.cdist(places, places)).sum(dim=-1) / weights.sum(dim=-1)
    return [float(head) for head in far.mean(dim=(0, 2))]


PLUGIN = AttentionMaps
