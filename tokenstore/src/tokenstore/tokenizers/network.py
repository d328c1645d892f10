"""A tokenizer around a torch network: pixels in, ids out, and back, on one device.

    uint8 images -> [tiles] -> the network's own range -> latents -> CodeSearch -> ids     encode
    ids -> codebook rows -> network -> [tiles joined] -> images in the network's range     decode

All families that ship here are a `Network` (their mathematics and weights) inside a
`NetworkTokenizer` (batches, devices, precisions, sizes: this file). Loading weights is the
business of a family's own file.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tokenstore.errors import TokenizerError
from tokenstore.tokenizers.base import Ids, Images, LoadRequest, Precision, Tokenizer
from tokenstore.tokenizers.search import CodeSearch
from tokenstore.tokenizers.transfers import through_device

PIXELS_AT_ONCE = {"cpu": 2**20, "cuda": 2**24}  # 16 and 256 images of 256x256

UNIT = np.arange(256, dtype=np.float32) / np.float32(255)  # as torchvision's ToTensor


class Network(nn.Module, ABC):
    """The mathematics of one tokenizer: float images to latents, codebook rows to images.

    Attributes:
        stride: pixels a cell, along each side.
        levels: float32 [256], what the network is fed for each level of a pixel.
        output_range: black and white of what `decode` gives.
        tile: (H, W) in pixels that the network is bound to; None where any multiple of `stride`
            will do. Larger images are cut into tiles.
        pixels_at_once: by device, how many pixels are computed together: bounds activations.
    """

    stride: int
    levels: NDArray[np.float32] = UNIT
    output_range: tuple[float, float] = (0.0, 1.0)
    tile: tuple[int, int] | None = None
    pixels_at_once: Mapping[str, int] = PIXELS_AT_ONCE

    @abstractmethod
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images in the network's range, [n, 3, H, W], to latents [n, d, h, w]."""

    @abstractmethod
    def decode(self, rows: torch.Tensor) -> torch.Tensor:
        """Codebook rows [n, d, h, w] to images [n, 3, H, W] in `output_range`."""

    @abstractmethod
    def code_rows(self) -> torch.Tensor:
        """The codebook as stored, float32 [K, d]."""

    def decoder_rows(self) -> torch.Tensor:
        """What `decode` takes for each id, float32 [K, d]; the codebook, unless it says else."""
        return self.code_rows()

    @abstractmethod
    def search(self) -> CodeSearch:
        """How latents become ids."""


class NetworkTokenizer(Tokenizer):
    """Runs a `Network` at the device and precision of a request; families subclass it to load."""

    def __init__(self, network: Network, sha256: str | None, request: LoadRequest) -> None:
        """Take over a loaded network.

        Args:
            network: in float32 on the CPU; `request.preprocess` must be set.
            sha256: of its weights.
            request: as asked by the user and completed with the family's defaults.

        Raises:
            TokenizerError: a device, precision or size that it cannot take.
        """
        if request.preprocess is None:
            raise TypeError("a family completes the request's preprocess before it comes here")
        self.name, self.stride = request.name, network.stride
        self.network = network
        self.preprocessing = request.preprocess
        self.check_size(*self.preprocessing.size)
        self.precision: Precision = request.precision
        self.device = checked_device(request.device, request.precision)
        self.weights_sha256 = sha256
        self.codebook = network.code_rows().detach().numpy().copy()
        self.search = network.search().to(self.device)
        self._rows = network.decoder_rows().detach().to(self.device)
        self._levels = torch.from_numpy(np.array(network.levels)).to(self.device)
        network = network.to(self.device).eval().requires_grad_(False)
        self.network = network.to(memory_format=torch.channels_last)

    @property
    def size_step(self) -> tuple[int, int]:
        """See `Tokenizer.size_step`."""
        return self.network.tile or super().size_step

    def describe(self) -> dict[str, Any]:
        """See `Tokenizer.describe`; families add the shape of their network."""
        return {"codes": len(self.codebook), "precision": self.precision}

    def restrict(self, ids: NDArray[np.integer]) -> None:
        """See `Tokenizer.restrict`."""
        distinct = torch.from_numpy(np.unique(np.asarray(ids, np.int64)))
        self.search.restrict(self.check_ids(distinct).to(self.device))

    def encode(self, images: Images) -> torch.Tensor:
        """See `Tokenizer.encode`."""
        pixels = self.check_images(images)
        ids = self._empty_ids(pixels)
        parts = self._parts(pixels)
        found = through_device(self.device, (pixels[part] for part in parts), self._encode)
        for part, some in zip(parts, found, strict=True):
            ids[part] = some
        return ids

    def encode_each(self, batches: Iterable[Images]) -> Iterator[torch.Tensor]:
        """See `Tokenizer.encode_each`."""
        checked = (self.check_images(images) for images in batches)
        return through_device(self.device, checked, self._encode_all)

    @torch.inference_mode()
    def decode(self, ids: Ids) -> torch.Tensor:
        """See `Tokenizer.decode`."""
        checked = self.check_ids(ids)
        if checked.ndim != 3:
            raise TokenizerError(f"{self.name} decodes ids [n, h, w], got {list(checked.shape)}")
        count, rows, columns = checked.shape
        height, width = rows * self.stride, columns * self.stride
        self.check_size(height, width)
        images = torch.empty((count, 3, height, width))
        for part in self._parts(images):
            images[part] = self._decode(checked[part].to(self.device)).float().cpu()
        return images

    def to_uint8(self, images: torch.Tensor) -> NDArray[np.uint8]:
        """See `Tokenizer.to_uint8`."""
        return as_pictures(images, self.network.output_range)

    def _encode_all(self, pixels: torch.Tensor) -> torch.Tensor:
        ids = self._empty_ids(pixels)
        for part in self._parts(pixels):
            ids[part] = self._encode(pixels[part])
        return ids

    @torch.inference_mode()
    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        tiles = split_grid(pixels, self._tile(pixels.shape[1:3]))
        # int32 indices: half the memory of int64, and exactly the levels that the family defines.
        values = self._levels.index_select(0, tiles.flatten().int()).view(tiles.shape)
        with arithmetic(self.precision, self.device):
            latents = self.network.encode(values.permute(0, 3, 1, 2))
        cells = latents.permute(0, 2, 3, 1)
        with arithmetic("fp32", self.device):
            ids: torch.Tensor = self.search(cells.reshape(-1, cells.shape[3]))
        grid = (pixels.shape[1] // self.stride, pixels.shape[2] // self.stride)
        return join_grid(ids.view(*cells.shape[:3], 1), grid)[..., 0]

    def _decode(self, ids: torch.Tensor) -> torch.Tensor:
        height, width = ids.shape[1] * self.stride, ids.shape[2] * self.stride
        tile = self._tile((height, width))
        cells = split_grid(ids[..., None], (tile[0] // self.stride, tile[1] // self.stride))
        with arithmetic(self.precision, self.device):
            images = self.network.decode(self._rows[cells[..., 0]].permute(0, 3, 1, 2))
        return join_grid(images.permute(0, 2, 3, 1), (height, width)).permute(0, 3, 1, 2)

    def _tile(self, size: tuple[int, int] | torch.Size) -> tuple[int, int]:
        return self.network.tile or (size[0], size[1])

    def _empty_ids(self, pixels: torch.Tensor) -> torch.Tensor:
        count, height, width = pixels.shape[:3]
        grid = (height // self.stride, width // self.stride)
        return torch.empty((count, *grid), dtype=torch.int64, device=pixels.device)

    def _parts(self, images: torch.Tensor) -> list[slice]:
        """Runs of images, uint8 [n, H, W, 3] or float [n, 3, H, W], to be computed together."""
        pixels = max(1, images[:1].numel() // 3)
        step = max(1, self.network.pixels_at_once[self.device.type] // pixels)
        return [slice(start, start + step) for start in range(0, len(images), step)]


def split_grid(cells: torch.Tensor, tile: tuple[int, int]) -> torch.Tensor:
    """Cut [n, H, W, c] into tiles, row-major within each image: [n * rows * columns, *tile, c]."""
    n, height, width, channels = cells.shape
    rows, columns = height // tile[0], width // tile[1]
    cut = cells.reshape(n, rows, tile[0], columns, tile[1], channels).transpose(2, 3)
    return cut.reshape(n * rows * columns, *tile, channels)


def join_grid(tiles: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The inverse of `split_grid`: tiles to [n, *size, c]."""
    _, height, width, channels = tiles.shape
    rows, columns = size[0] // height, size[1] // width
    laid = tiles.reshape(-1, rows, columns, height, width, channels).transpose(2, 3)
    return laid.reshape(-1, *size, channels)


def as_pictures(images: torch.Tensor, black_white: tuple[float, float]) -> NDArray[np.uint8]:
    """Float [n, 3, H, W] between black and white to uint8 [n, H, W, 3], clamped and rounded."""
    black, white = black_white
    shares = ((images.float() - black) / (white - black)).clamp(0, 1)
    levels = (shares * 255).round().to(torch.uint8)
    return np.ascontiguousarray(levels.permute(0, 2, 3, 1).cpu().numpy())


@contextmanager
def arithmetic(precision: Precision, device: torch.device) -> Iterator[None]:
    """Compute in one precision, whatever autocast or tf32 surrounds the call."""
    if precision == "bf16":
        with torch.autocast(device.type, torch.bfloat16):
            yield
        return
    allow = precision == "tf32"
    before = torch.backends.cuda.matmul.allow_tf32
    # Left alone, cuDNN computes in tf32; on the CPU none of these flags changes anything.
    flags = torch.backends.cudnn.flags(True, deterministic=True, allow_tf32=allow)
    with torch.autocast(device.type, enabled=False), flags:
        torch.backends.cuda.matmul.allow_tf32 = allow
        try:
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before


def checked_device(name: str, precision: Precision) -> torch.device:
    """The torch device called `name`, refused where it is absent or cannot do `precision`.

    Raises:
        TokenizerError: no such device here, or tf32 on anything but cuda.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise TokenizerError(f"unknown device '{name}': say cpu, cuda or cuda:N") from error
    if device.type not in PIXELS_AT_ONCE:
        raise TokenizerError(f"device '{name}' is not served; say cpu, cuda or cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise TokenizerError(f"device '{name}' was asked for, but torch finds no CUDA here")
    if precision == "tf32" and device.type != "cuda":
        raise TokenizerError(f"precision tf32 exists on cuda only; use fp32 or bf16 on '{name}'")
    return device
