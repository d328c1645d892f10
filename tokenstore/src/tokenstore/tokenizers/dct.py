"""DCT: the quantised coefficients that a JPEG of the image would hold, as a grid with channels.

The other input of SeiT++ (Table 8): no network and no learnt codes, to tell what these give.
Every step is that of the JPEG standard (ITU-T T.81): RGB to Y, Cb, Cr (JFIF), 8x8 blocks, discrete
cosine transform, division by a quantisation table. Entropy coding is the store's.

    ids [192, h, w]      channel 64 k + z: coefficient number z, in zigzag order, of component k
                         (Y, Cb, Cr; each in full resolution, "4:4:4") in every block
    id                   the quantised coefficient + 1024: 0..2048, and 1024 is zero
    codebook [2049, 1]   the quantised coefficient, -1024..1024

`dct` has the tables of quality 75, which libjpeg and Pillow take by default, `dct-50` those of
quality 50 and so on. All that is computed is a few sums a block: on the CPU, whatever the device.
"""

from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from tokenstore.errors import TokenizerError
from tokenstore.preprocess import Preprocess
from tokenstore.tokenizers.base import Ids, Images, LoadRequest, Tokenizer, TokenizerCard

BLOCK = 8
COEFFICIENTS = BLOCK * BLOCK
COMPONENTS = 3
CHANNELS = COMPONENTS * COEFFICIENTS
ZERO = 1024  # id of the coefficient 0; none of an 8-bit image exceeds this, by any table
DEFAULT_QUALITY = 75
OTHER_QUALITIES = (10, 25, 50, 90)
DEFAULT_RULE, DEFAULT_SIZE = "center-crop", (256, 256)
IMAGES_AT_ONCE = 16  # 64 MB of doubles at 256x256

# ITU-T T.81, tables K.1 and K.2, row by row: quality 50.
LUMINANCE = (
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE = (
    *(17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99),
    *(24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99),
    *(99,) * 32,
)

# JFIF: Y, Cb, Cr of red, green, blue in 1/65536, as libjpeg rounds them, and the way back.
TO_YCC = torch.tensor([[19595, 38470, 7471], [-11059, -21709, 32768], [32768, -27439, -5329]])
TO_RGB = torch.tensor(
    [[1.0, 0.0, 1.402], [1.0, -0.344136286, -0.714136286], [1.0, 1.772, 0.0]], dtype=torch.float64
)


class Dct(Tokenizer):
    """JPEG's transform and tables at one quality; see above."""

    variants: ClassVar[tuple[str, ...]] = ("dct", *(f"dct-{n}" for n in OTHER_QUALITIES))

    stride = BLOCK
    weights_sha256 = None

    def __init__(self, name: str, preprocessing: Preprocess) -> None:
        self.name, self.preprocessing = name, preprocessing
        self.check_size(*preprocessing.size)
        self.quality = _quality_of(name)
        self.tables = [_scaled(table, self.quality) for table in (LUMINANCE, CHROMINANCE)]
        luminance, chrominance = self.tables
        steps = np.stack([luminance, chrominance, chrominance])[:, ZIGZAG]
        self.steps = torch.from_numpy(steps.reshape(CHANNELS))
        self.codebook = np.arange(-ZERO, ZERO + 1, dtype=np.float32)[:, None]
        self._nearest: torch.Tensor | None = None

    @classmethod
    def load(cls, request: LoadRequest) -> Self:
        """See `Tokenizer.load`."""
        if request.weights is not None or request.config is not None:
            raise TokenizerError(
                f"{request.name} has neither weights nor a configuration: leave out --weights and "
                f"--config. Other qualities are {', '.join(cls.variants)}."
            )
        return cls(request.name, request.preprocess or Preprocess(DEFAULT_RULE, DEFAULT_SIZE))

    @classmethod
    def card(cls, name: str) -> TokenizerCard:
        """See `Tokenizer.card`."""
        return TokenizerCard(
            name=name,
            family=f"JPEG's 8x8 DCT at quality {_quality_of(name)}, {CHANNELS} channels",
            stride=BLOCK,
            preprocess=DEFAULT_RULE,
            default_size=DEFAULT_SIZE,
            codebook=(2 * ZERO + 1, 1),
            licence="Apache-2.0",
            source="no weights: the tables of ITU-T T.81",
            available=True,
        )

    @property
    def grid(self) -> tuple[int, ...]:
        """Shape of one image's ids, (192, h, w)."""
        return (CHANNELS, *super().grid)

    def describe(self) -> dict[str, Any]:
        """See `Tokenizer.describe`: the whole layout, and under "scale" what models are fed."""
        luminance, chrominance = self.tables
        return {
            "codes": len(self.codebook),
            "block": BLOCK,
            "components": ["Y", "Cb", "Cr"],
            "subsampling": "4:4:4",
            "coefficients": "zigzag",
            "quality": self.quality,
            "tables": {"luminance": luminance.tolist(), "chrominance": chrominance.tolist()},
            "scale": self._scale(),
        }

    def _scale(self) -> list[float]:
        """Of each channel, what makes a quantised coefficient a number of deviation about 1.

        Dequantised, and divided by what photos have: their spectra fall as 1/f (Field 1987), colour
        has about a quarter of the brightness's deviation (measured in docs/log.md).
        """
        column, row = np.meshgrid(np.arange(BLOCK), np.arange(BLOCK))
        distance = np.hypot(row, column).ravel()[ZIGZAG]
        usual = np.where(distance > 0, 100 / np.maximum(distance, 1), 512)
        usual = np.concatenate([usual, usual / 4, usual / 4])
        return [round(float(scale), 6) for scale in self.steps.numpy() / usual]

    def restrict(self, ids: NDArray[np.integer]) -> None:
        """See `Tokenizer.restrict`: each coefficient becomes the nearest of these."""
        known = np.unique(self.check_ids(np.asarray(ids)).numpy())
        every = np.arange(len(self.codebook))
        above = np.searchsorted(known, every).clip(1, max(1, len(known) - 1))
        pair = known[np.stack([above - 1, above]).clip(max=len(known) - 1)]
        nearest = np.where(every - pair[0] <= np.abs(pair[1] - every), pair[0], pair[1])
        self._nearest = torch.from_numpy(nearest)

    def encode(self, images: Images) -> torch.Tensor:
        """See `Tokenizer.encode`; int64 [n, 192, h, w]."""
        pixels = self.check_images(images)
        n, height, width, _ = pixels.shape
        ids = torch.empty((n, CHANNELS, height // BLOCK, width // BLOCK), dtype=torch.int64)
        for start in range(0, n, IMAGES_AT_ONCE):
            some = slice(start, start + IMAGES_AT_ONCE)
            ids[some] = self._quantised(pixels[some]) + ZERO
        return ids if self._nearest is None else self._nearest[ids]

    def decode(self, ids: Ids) -> torch.Tensor:
        """See `Tokenizer.decode`: what a JPEG decoder makes of the coefficients, 0..255."""
        tensor = self.check_ids(ids)
        if tensor.ndim != 4 or tensor.shape[1] != CHANNELS:
            raise TokenizerError(
                f"{self.name} decodes ids [n, {CHANNELS}, h, w], got {list(tensor.shape)}"
            )
        n, _, rows, columns = tensor.shape
        images = torch.empty((n, COMPONENTS, BLOCK * rows, BLOCK * columns))
        for start in range(0, n, IMAGES_AT_ONCE):
            some = slice(start, start + IMAGES_AT_ONCE)
            images[some] = self._pictures(tensor[some] - ZERO)
        return images

    def to_uint8(self, images: torch.Tensor) -> NDArray[np.uint8]:
        """See `Tokenizer.to_uint8`."""
        return images.clamp(0, 255).round().byte().permute(0, 2, 3, 1).numpy()

    def _quantised(self, pixels: torch.Tensor) -> torch.Tensor:
        """Uint8 [n, H, W, 3] -> quantised coefficients, int64 [n, 192, h, w]."""
        centre = torch.tensor([0, 128, 128]) * 65536 + 32768
        components = ((pixels.long() @ TO_YCC.T + centre) >> 16).clamp(0, 255) - 128
        blocks = components.unflatten(1, (-1, BLOCK)).unflatten(3, (-1, BLOCK))
        blocks = blocks.permute(0, 5, 1, 3, 2, 4).double()  # n, component, h, w, y, x
        # In eighths, as libjpeg keeps them before the division: no result then hangs on how
        # a sum of doubles was rounded.
        eighths = (8 * (COSINES @ blocks @ COSINES.T)).round().long().flatten(4)[..., ZIGZAG]
        channels = eighths.permute(0, 1, 4, 2, 3).flatten(1, 2)
        steps = self.steps[:, None, None]
        size: torch.Tensor = (channels.abs() + 4 * steps) // (8 * steps)
        return torch.where(channels < 0, -size, size)

    def _pictures(self, coefficients: torch.Tensor) -> torch.Tensor:
        """Quantised coefficients, int64 [n, 192, h, w] -> RGB, float32 [n, 3, H, W]."""
        channels = (coefficients * self.steps[:, None, None]).double()
        rows_first = channels.unflatten(1, (COMPONENTS, COEFFICIENTS))[:, :, np.argsort(ZIGZAG)]
        blocks = rows_first.unflatten(2, (BLOCK, BLOCK)).permute(0, 1, 4, 5, 2, 3)
        samples = COSINES.T @ blocks @ COSINES  # n, component, h, w, y, x
        planes = samples.permute(0, 1, 2, 4, 3, 5).flatten(4, 5).flatten(2, 3)
        planes = (planes + 128).round().clamp(0, 255)  # a JPEG decoder's samples are bytes
        planes -= torch.tensor([0, 128, 128])[:, None, None]
        return torch.einsum("rc,nchw->nrhw", TO_RGB, planes).float()


def _cosines() -> torch.Tensor:
    """The orthonormal 8-point DCT-II, float64 [frequency, place]."""
    frequency = torch.arange(BLOCK, dtype=torch.float64)[:, None]
    place = torch.arange(BLOCK, dtype=torch.float64)
    waves = torch.cos((2 * place + 1) * frequency * torch.pi / (2 * BLOCK)) / 2
    return torch.where(frequency == 0, BLOCK**-0.5, waves)


def _zigzag() -> NDArray[np.int64]:
    """Place in a block, row by row, of each coefficient in zigzag order: 0, 1, 8, 16, 9, 2 ..."""
    places = [(row, column) for row in range(BLOCK) for column in range(BLOCK)]

    def along(place: tuple[int, int]) -> tuple[int, int]:
        row, column = place
        return row + column, row if (row + column) % 2 else column

    return np.array([BLOCK * row + column for row, column in sorted(places, key=along)])


def _quality_of(name: str) -> int:
    """`dct` -> 75, `dct-50` -> 50."""
    return int(name.partition("-")[2] or DEFAULT_QUALITY)


def _scaled(table: tuple[int, ...], quality: int) -> NDArray[np.int64]:
    """The table of a quality, int64 [64], row by row, as libjpeg scales that of quality 50."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((np.array(table) * percent + 50) // 100).clip(1, 255)


COSINES = _cosines()
ZIGZAG = _zigzag()

PLUGIN = Dct
