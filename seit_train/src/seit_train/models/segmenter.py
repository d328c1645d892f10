"""Segmenters: a class for every pixel, from the blocks of the token ViT (SeiT++ section 4.2).

`UperNet` is the published one: UPerNet (Xiao et al., 2018) on four blocks of a ViT-B, with an
auxiliary head as mmsegmentation has it. `ConvSegmenter` is for small grids: what the last block
says joins the embedded grid itself, whose places are finer, and three convolutions and a pixel
shuffle make classes of them. `encoder.*` are the names of a `TokenViT`, as in masked modelling, so
weights carry over. Losses and metrics are the task's.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from seit_train.models.vit import TokenViT
from tokenstore.errors import TrainingError

_UPERNET_WIDTH, _AUXILIARY_WIDTH, _DROPOUT = 512, 256, 0.1  # of mmsegmentation, as for BEiT and MAE
_CONVOLUTIONS = 3


class Logits(NamedTuple):
    """Float [B,classes,H,W] each; those of the auxiliary head only in training, if there is one."""

    classes: Tensor
    auxiliary: Tensor | None


class UperNet(nn.Module):
    """UPerNet on the ViT's blocks at 1/3, 1/2, 2/3 and the end (3, 5, 7 and 11 of ViT-B's 0 to 11).

    A ViT has one resolution; transposed convolutions and pooling make the four that UPerNet reads
    (as BEiT, appendix; MAE, section A.4): 4, 2, 1 and 1/2 of the ViT's positions.
    """

    def __init__(self, encoder: TokenViT, classes: int, size: tuple[int, int]) -> None:
        """Put the head on an encoder.

        Args:
            encoder: without a head.
            classes: outputs at each pixel.
            size: rows and columns of pixels.

        Raises:
            TrainingError: the encoder has too few blocks.
        """
        # Seconds of imports, for those who want this head only.
        from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder

        super().__init__()
        width, depth = encoder.cls_token.shape[-1], len(encoder.blocks)
        self.encoder, self.size = _without_final_norm(encoder), size
        self.behind = [depth // 3 - 1, depth // 2 - 1, 2 * depth // 3 - 1, depth - 1]
        if depth < 5:
            raise TrainingError(
                f"UPerNet reads four blocks of a ViT that are apart, and {depth} are too few: set "
                "model.depth=5 or more, or model.head=convolutions"
            )
        self.scales = nn.ModuleList(
            [
                nn.Sequential(
                    nn.ConvTranspose2d(width, width, 2, 2),
                    nn.BatchNorm2d(width),
                    nn.GELU(),
                    nn.ConvTranspose2d(width, width, 2, 2),
                ),
                nn.ConvTranspose2d(width, width, 2, 2),
                nn.Identity(),
                nn.MaxPool2d(2, ceil_mode=True),
            ]
        )
        self.decoder = UPerNetDecoder([0, 0, *[width] * 4], 5, _UPERNET_WIDTH)
        self.drop = nn.Dropout2d(_DROPOUT)
        self.head = nn.Conv2d(_UPERNET_WIDTH, classes, 1)
        self.auxiliary = nn.Sequential(
            nn.Conv2d(width, _AUXILIARY_WIDTH, 3, padding=1, bias=False),
            nn.BatchNorm2d(_AUXILIARY_WIDTH),
            nn.ReLU(),
            nn.Dropout2d(_DROPOUT),
        )
        self.auxiliary_head = nn.Conv2d(_AUXILIARY_WIDTH, classes, 1)

    def forward(self, tokens: Tensor) -> Logits:
        """A batch as the stem takes it -> logits of every pixel."""
        maps = self.encoder.maps(tokens, self.behind)
        pyramid = [scale(each) for scale, each in zip(self.scales, maps, strict=True)]
        # The decoder skips the two finest of the resolutions that convolutional networks have.
        fused = self.decoder([maps[0], maps[0], *pyramid])
        logits = self._resized(self.head(self.drop(fused)))
        if not self.training:
            return Logits(logits, None)
        return Logits(logits, self._resized(self.auxiliary_head(self.auxiliary(maps[2]))))

    def _resized(self, logits: Tensor) -> Tensor:
        return functional.interpolate(logits, self.size, mode="bilinear", align_corners=False)


class ConvSegmenter(nn.Module):
    """The last block and the embedded grid, three convolutions, and a pixel shuffle."""

    def __init__(self, encoder: TokenViT, classes: int, scale: int) -> None:
        """Put the head on an encoder.

        Args:
            encoder: without a head.
            classes: outputs at each pixel.
            scale: pixels of a side of a grid's place.
        """
        super().__init__()
        width, stem = encoder.cls_token.shape[-1], encoder.patch_embed
        self.encoder, self.scale = _without_final_norm(encoder), scale
        self.norm = nn.GroupNorm(1, width)
        layers: list[nn.Module] = []
        channels = width + stem.proj.in_channels
        for _ in range(_CONVOLUTIONS):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.GroupNorm(1, width), nn.GELU()]
            channels = width
        self.convolutions = nn.Sequential(*layers)
        self.head = nn.Conv2d(width, classes * scale**2, 1)

    def forward(self, tokens: Tensor) -> Logits:
        """A batch as the stem takes it -> logits of every pixel."""
        (last,) = self.encoder.maps(tokens, [len(self.encoder.blocks) - 1])
        grid = self.encoder.patch_embed.embedded(tokens)
        rows, columns = grid.shape[-2:]
        wide = functional.interpolate(
            self.norm(last), (rows, columns), mode="bilinear", align_corners=False
        )
        joined = self.convolutions(torch.cat([wide, grid.to(wide.dtype)], dim=1))
        return Logits(functional.pixel_shuffle(self.head(joined), self.scale), None)


def _without_final_norm(encoder: TokenViT) -> TokenViT:
    """Maps come from before it, and DDP waits for the gradient of every weight."""
    encoder.norm = nn.Identity()
    return encoder
