"""Roundtrip: decode the ids, augment the pixels, tokenize again, inside the step.

The honest alternative to TokenAdapt, for comparison (SeiT++, Tables B and E: 8 times the step). The
tokenizer works on the host's side of its own interface, so unlike all others this augmentation
waits for the device.
"""

import torch
from torch import Tensor

from seit_train.augment.base import Augmentation, Surroundings, View, output_sizes
from seit_train.augment.crop import CropSize, refuse_larger
from seit_train.augment.geometry import Geometry, draw_warps, warp
from seit_train.config import Settings
from tokenstore.errors import TrainingError
from tokenstore.preprocess import Preprocess


class RoundtripOptions(Settings):
    """What happens to the pixels, and with which weights.

    Attributes:
        weights: file or URL of the tokenizer's weights; by default from its own place.
        config: file of its architecture, for weights that cannot tell it.
        size: rows and columns that come out; 7/8 of the grid where it is not given.
        geometry: how far images are flipped, turned, shifted, sheared and cropped.
    """

    weights: str | None = None
    config: str | None = None
    size: CropSize = None
    geometry: Geometry = Geometry()


class Roundtrip(Augmentation[RoundtripOptions]):
    """Geometry on decoded pictures; the ids are searched among those of the store only."""

    space = "ranks"
    Options = RoundtripOptions
    ids: Tensor
    ranks: Tensor

    def __init__(self, options: RoundtripOptions, around: Surroundings) -> None:
        super().__init__(options, around)
        from tokenstore.tokenizers import load_tokenizer

        codes = around.codes
        if codes is None:
            raise TrainingError("roundtrip needs the tokenizer that made the store, unknown here")
        self.grid, self.size = around.size, output_sizes(options.size, around.size)
        refuse_larger(self.size, around.size)
        self.tokenizer = load_tokenizer(
            codes.tokenizer["name"],
            options.weights,
            config=options.config,
            preprocess=Preprocess.from_json(dict(codes.preprocess)),
        )
        self.tokenizer.check_made("the store of this run", codes.tokenizer)
        self.pixels = self.size[0] * self.tokenizer.stride, self.size[1] * self.tokenizer.stride
        self.tokenizer.check_size(*self.pixels)
        self.tokenizer.restrict(codes.ids.numpy())
        ranks = torch.zeros(int(codes.ids.max()) + 1, dtype=torch.int64)
        ranks[codes.ids] = torch.arange(len(codes.ids))
        self.register_buffer("ids", codes.ids.clone(), persistent=False)
        self.register_buffer("ranks", ranks, persistent=False)

    def forward(self, view: View, rng: torch.Generator) -> View:
        """Int64 [B,h,w] -> [B,*size]."""
        device = view.tokens.device
        warps = draw_warps(view.tokens, self.grid, self.options.geometry, rng)
        decoded = self.tokenizer.to_uint8(self.tokenizer.decode(self.ids[view.tokens].cpu()))
        pixels = torch.from_numpy(decoded).to(device).permute(0, 3, 1, 2).float()
        warped = warp(pixels, warps, self.pixels).round().clamp(0, 255).to(torch.uint8)
        ids = self.tokenizer.encode(warped.permute(0, 2, 3, 1).contiguous().cpu())
        return view._replace(tokens=self.ranks[ids.to(device)])


PLUGIN = Roundtrip
