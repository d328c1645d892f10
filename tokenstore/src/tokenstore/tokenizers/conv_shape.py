"""The numbers of a convolutional tokenizer, read from its tensors and checked against its yaml.

Every one of them is a size or the presence of a tensor: levels and blocks by counting, attention
wherever its tensors are. Only the default size of images needs a yaml. What the numbers build
stands in conv_blocks.py; which names tensors have is said by the family.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenstore.errors import WeightsError
from tokenstore.tokenizers.conv_blocks import GROUPS, ConvShape
from tokenstore.tokenizers.evidence import Evidence, count_members
from tokenstore.tokenizers.weights import Published

Naming = Callable[[str, int], str]  # our name of a tensor, number of levels -> published name


@dataclass(frozen=True)
class Variant:
    """One published model, as a card shows it and as its weights must be."""

    shape: ConvShape
    published: Published
    family: str


def published_shape(widths: tuple[int, ...], z_channels: int, code: tuple[int, int]) -> ConvShape:
    """Shape of a published model with `code` = (codes, dimension): all else they share."""
    return ConvShape(
        width=128,
        encoder_widths=widths,
        decoder_widths=widths,
        blocks=2,
        attention=(len(widths) - 1,),
        middle_attention=True,
        z_channels=z_channels,
        dimension=code[1],
        codes=code[0],
    )


@dataclass(frozen=True)
class ConvTensors:
    """The tensors of a file, asked for by our names."""

    evidence: Evidence
    published: Naming
    levels: int

    def has(self, prefix: str) -> bool:
        """Whether any tensor's name begins with these words."""
        start = f"{self.published(prefix, self.levels)}."
        return any(name.startswith(start) for name in self.evidence.tensors)

    def count(self, prefix: str) -> int:
        """How many numbered members these words have."""
        return count_members(self.evidence.tensors, self.published(prefix, self.levels))

    def channels(self, convolution: str) -> int:
        """Output channels of a convolution.

        Raises:
            WeightsError: it is missing, or the groups of the next norm do not divide them.
        """
        weight = self.published(f"{convolution}.weight", self.levels)
        channels = self.evidence.size(weight, 4)[0]
        if channels % GROUPS:
            raise WeightsError(
                f"'{self.evidence.file}': tensor '{weight}' has {channels} output channels, "
                f"expected a multiple of {GROUPS}, since they are normalised in {GROUPS} groups."
            )
        return channels


def read_shape(evidence: Evidence, codebook: str, published: Naming) -> ConvShape:
    """The shape of the network whose tensors these are.

    Args:
        evidence: its tensors, by published names.
        codebook: name of the tensor [codes, dimension].
        published: makes a published name of ours, or a prefix of it.

    Raises:
        WeightsError: a tensor that tells the shape is missing, or no such network exists.
    """
    count = count_members(evidence.tensors, published("encoder.down", 0))
    if not count:
        raise WeightsError(
            f"'{evidence.file}' lacks every '{published('encoder.down', 0)}.*': it is incomplete, "
            "or holds another kind of model."
        )
    tensors, levels = ConvTensors(evidence, published, count), range(count)
    dimension, z_channels = evidence.size("quant_conv.weight", 4)[:2]
    sides = ("encoder.down.{}", "decoder.up.{}")
    encoder, decoder = (
        tuple(tensors.channels(f"{side.format(level)}.block.0.conv1") for level in levels)
        for side in sides
    )
    return ConvShape(
        width=tensors.channels("encoder.conv_in"),
        encoder_widths=encoder,
        decoder_widths=decoder,
        blocks=max(tensors.count(f"encoder.down.{level}.block") for level in levels),
        attention=tuple(
            level
            for level in levels
            if any(tensors.has(f"{side.format(level)}.attn") for side in sides)
        ),
        middle_attention=any(tensors.has(f"{half}.mid.attn_1") for half in ("encoder", "decoder")),
        z_channels=z_channels,
        dimension=dimension,
        codes=evidence.size(codebook, 2)[0],
    )


def require_variant(
    name: str, shape: ConvShape, variants: Mapping[str, Variant], file: Path
) -> None:
    """Refuse weights of one published shape under the name of another.

    Raises:
        WeightsError: says which name they have.
    """
    others = [other for other, variant in variants.items() if variant.shape == shape]
    if others and name not in others:
        raise WeightsError(
            f"'{file}' has the shape of {others[0]} ({shape.codes} codes of {shape.dimension} "
            f"numbers, stride {shape.stride}), not of {name}: load it as {others[0]}."
        )


def multipliers(shape: ConvShape, widths: tuple[int, ...]) -> list[int] | list[float]:
    """Widths as configurations have them, in units of the first: `(32, 64), 32 -> [1, 2]`."""
    if all(width % shape.width == 0 for width in widths):
        return [width // shape.width for width in widths]
    return [width / shape.width for width in widths]
