"""A tokenizer for tests: no training, no weights, 64 flat colours, one for each 8x8 pixels.

It is found by name through an entry point, as a plugin of another package would be. `install`
writes that package's metadata into a folder which then has to be on the import path, also that of
a subprocess.
"""

import os
import time
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from tokenstore.preprocess import Preprocess
from tokenstore.tokenizers.base import Images, LoadRequest, Tokenizer, TokenizerCard

REPOSITORY = Path(__file__).parents[1]
LEVELS = 4
CODES = LEVELS**3


class ToyTokenizer(Tokenizer):
    """The mean colour of each 8x8 pixels, in four levels a channel."""

    name = "toy"
    stride = 8
    weights_sha256 = None

    def __init__(self, preprocessing: Preprocess) -> None:
        self.preprocessing = preprocessing
        self.among: torch.Tensor | None = None
        levels = (np.arange(LEVELS) + 0.5) * 256 / LEVELS
        grids = np.meshgrid(levels, levels, levels, indexing="ij")
        self.codebook = np.stack(grids, -1).reshape(CODES, 3).astype(np.float32)

    @classmethod
    def load(cls, request: LoadRequest) -> Self:
        return cls(request.preprocess or Preprocess("center-crop", (32, 32)))

    @classmethod
    def card(cls, name: str) -> TokenizerCard:
        return TokenizerCard(
            name=name,
            family="toy",
            stride=8,
            preprocess="center-crop",
            default_size=(32, 32),
            codebook=(CODES, 3),
            licence="none",
            source="tests",
            available=True,
        )

    def describe(self) -> dict[str, Any]:
        return {"codes": CODES, "stride": self.stride}

    def encode(self, images: Images) -> torch.Tensor:
        tensor = self.check_images(images)
        time.sleep(float(os.environ.get("TOY_SECONDS", "0")))
        n, height, width, _ = tensor.shape
        cells = tensor.view(n, height // 8, 8, width // 8, 8, 3).float().mean((2, 4))
        levels = (cells * LEVELS / 256).long()
        ids = (levels[..., 0] * LEVELS + levels[..., 1]) * LEVELS + levels[..., 2]
        return ids if self.among is None else self._nearest(cells)

    def restrict(self, ids: np.ndarray) -> None:
        self.among = self.check_ids(np.unique(ids))

    def _nearest(self, cells: torch.Tensor) -> torch.Tensor:
        """The nearest of the allowed colours, among which is the free winner if it is allowed."""
        assert self.among is not None
        rows = torch.from_numpy(self.codebook)[self.among]
        distances = (cells[..., None, :] - rows).square().sum(-1)
        return self.among[distances.argmin(-1)]

    def decode(self, ids: np.ndarray | torch.Tensor) -> torch.Tensor:
        colours = torch.from_numpy(self.codebook)[self.check_ids(ids)].permute(0, 3, 1, 2)
        return colours.repeat_interleave(8, 2).repeat_interleave(8, 3)

    def to_uint8(self, images: torch.Tensor) -> np.ndarray:
        return images.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


PLUGIN = ToyTokenizer


def install(folder: Path) -> None:
    """Make `toy` known wherever this folder and the repository are on the import path."""
    info = folder / "toy_tokenizer-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-tokenizer\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[tokenstore.tokenizers]\ntoy = tests.toy_tokenizer:PLUGIN\n"
    )
