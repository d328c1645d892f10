"""ResNets on token grids: timm's, with a stem that enlarges where their own one shrinks.

A transposed convolution brings a grid to the size that a ResNet's own stem (7x7 of stride 2, then
pooling) leaves of the picture, a quarter of its sides (SeiT, on other backbones). All other
names and weights are timm's.
"""

from typing import Any, Literal

from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from seit_train.models.stem import IdEmbedding

ResNetName = Literal["resnet18", "resnet50", "resnet18-third"]

# Blocks of the four stages (He et al. 2016, arXiv 1512.03385, Table 1).
_BLOCKS: dict[ResNetName, tuple[Any, tuple[int, ...]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet18-third": (BasicBlock, (2, 2, 2, 2)),
}
# Channels of stem and first stage, doubled by every further stage. A third of ResNet-18's is what
# continual learning trains since GEM (Lopez-Paz and Ranzato, arXiv 1706.08840, section 5).
_CHANNELS: dict[ResNetName, int] = {"resnet18": 64, "resnet50": 64, "resnet18-third": 20}
_PLAIN = 64  # width of timm's plain stem; that of a deep one, replaced by ours, can be told
_STEM_STRIDE = 4  # of a ResNet's own stem, in pixels


class EnlargingStem(nn.Module):
    """A transposed convolution, with the id embedding before it where there is one."""

    def __init__(
        self, source: int | IdEmbedding, stride: int, name: ResNetName = "resnet18"
    ) -> None:
        """Make a stem.

        Args:
            source: channels of the embedded grids it is fed, or the embedding of ranks it owns.
            stride: pixels of a grid position, along each side.
            name: of the ResNet that it is for.
        """
        super().__init__()
        self.ids = source if isinstance(source, IdEmbedding) else None
        channels = source.width if isinstance(source, IdEmbedding) else source
        factor = max(1, stride // _STEM_STRIDE)
        kernel = max(1, 2 * factor - factor % 2)  # windows that overlap by half
        self.proj = nn.ConvTranspose2d(
            channels, _CHANNELS[name], kernel, factor, (kernel - factor) // 2, bias=False
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Float [B,d,h,w], or int64 [B,h,w] with an id embedding -> float [B,c,f*h,f*w]."""
        grid = tokens if self.ids is None else self.ids(tokens)
        enlarged: Tensor = self.proj(grid)
        return enlarged


class TokenResNet(ResNet):
    """A ResNet over embedded grids, ranks or pictures; `conv1` is its stem.

    He et al. (arXiv 1512.03385), Table 1; with the stem that SeiT (arXiv 2303.11114) gives ResNets.
    """

    def __init__(
        self, name: ResNetName, stem: EnlargingStem | None, classes: int, drop_path: float
    ) -> None:
        """Make a freshly initialised ResNet.

        Args:
            name: which.
            stem: what it is fed through, which is not pooled; None is its own, for pictures.
            classes: outputs of the head.
            drop_path: chance that the last block is skipped for an image; earlier ones less.
        """
        (block, blocks), width = _BLOCKS[name], _CHANNELS[name]
        narrow: dict[str, Any] = {"stem_type": "deep", "stem_width": width // 2}
        super().__init__(
            block,
            blocks,
            num_classes=classes,
            drop_path_rate=drop_path,
            channels=tuple(width * 2**stage for stage in range(len(blocks))),
            **({} if width == _PLAIN else narrow),
        )
        if stem is None:
            self.add_module("conv1", nn.Conv2d(3, width, 7, 2, 3, bias=False))
        else:
            self.add_module("conv1", stem)
            self.add_module("maxpool", nn.Identity())


def layer_of(parameter: str, name: ResNetName) -> int:
    """Depth of a parameter for layer-wise decay, grouped as timm does: stem 0, blocks, head."""
    first, *rest = parameter.split(".")
    blocks = _BLOCKS[name][1]
    if not first.startswith("layer"):
        return sum(blocks) + 1 if first == "fc" else 0
    stage = int(first.removeprefix("layer")) - 1
    return 1 + sum(blocks[:stage]) + int(rest[0])
