"""The law of the tokenizer: images to codebook ids and back.

* `encode` takes uint8 RGB whose sides are multiples of `size_step` and gives ids, int64 on the
  CPU. Equal input, weights, device kind, precision and batch give equal ids.
* `decode` takes ids and gives the decoder's own output, unclamped; `to_uint8` makes pictures of it.
* The codebook is float32 [K, d] as stored by the weights (not normalised, not reordered).
* Preprocessing is part of the tokenizer: the same rule serves building, evaluation and showing.
* `describe` holds, under "codes", the size of the codebook.
* A tokenizer knows ids only: ranks, stores and files of images are not its business.

A file of this folder defines one subclass and names it in the module constant `PLUGIN`.
`tokenstore.tokenizers.load_tokenizer` finds it by name and hands `PLUGIN.load` a `LoadRequest`.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray

from tokenstore.errors import Mismatch, TokenizerError
from tokenstore.preprocess import Preprocess

if TYPE_CHECKING:
    from PIL import Image

Precision = Literal["fp32", "tf32", "bf16"]
Images = NDArray[np.uint8] | torch.Tensor  # uint8 [n, H, W, 3]
Ids = NDArray[np.integer] | torch.Tensor  # any integer dtype, [n, h, w]


@dataclass(frozen=True)
class LoadRequest:
    """What a user asked for when loading a tokenizer; None means the tokenizer's default."""

    name: str
    weights: str | None = None
    config: str | None = None
    device: str = "cpu"
    precision: Precision = "fp32"
    preprocess: Preprocess | None = None


@dataclass(frozen=True)
class TokenizerCard:
    """What `tokenstore tokenizers NAME` tells of a tokenizer without loading its weights.

    Attributes:
        preprocess: name of its own resize rule (`tokenstore.preprocess.RULES`), as published.
        default_size: (H, W) in pixels that this rule makes, where nothing else is asked.
        codebook: (codes, numbers a code).
        licence: of the weights, as published.
        source: where weights come from.
        available: whether they are on this machine.
    """

    name: str
    family: str
    stride: int
    preprocess: str
    default_size: tuple[int, int]
    codebook: tuple[int, int]
    licence: str
    source: str
    available: bool


class Tokenizer(ABC):
    """A trained image tokenizer, on one device, at one resolution; see the law above."""

    variants: ClassVar[tuple[str, ...]] = ()

    name: str
    stride: int  # pixels a cell, along each side
    preprocessing: Preprocess
    weights_sha256: str | None
    codebook: NDArray[np.float32]

    @classmethod
    @abstractmethod
    def load(cls, request: LoadRequest) -> Self:
        """Load weights and settings.

        Raises:
            WeightsError: the weights are missing, damaged or of another model.
            TokenizerError: a size, device or precision that this tokenizer cannot take.
        """

    @classmethod
    @abstractmethod
    def card(cls, name: str) -> TokenizerCard:
        """Facts about the variant `name`, without loading anything."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """JSON settings that, with the weights, make the same ids; kept in the manifest."""

    @abstractmethod
    def encode(self, images: Images) -> torch.Tensor:
        """Tokenize uint8 [n, H, W, 3] into ids, int64 [n, h, w] (or [n, c, h, w]) on the CPU.

        Raises:
            TokenizerError: images of another dtype, or of a size that it cannot take.
        """

    def encode_each(self, batches: Iterable[Images]) -> Iterator[torch.Tensor]:
        """Tokenize batch after batch: what `encode` gives for each, in order.

        A batch is asked for when it is needed: at most one more than what was handed out, so that
        a device need not wait for it.
        """
        return map(self.encode, batches)

    @abstractmethod
    def decode(self, ids: Ids) -> torch.Tensor:
        """Decode ids of any integer dtype, [n, h, w], to float32 [n, 3, H, W] on the CPU.

        Raises:
            TokenizerError: an id outside the codebook, or a grid that it cannot take.
        """

    @abstractmethod
    def to_uint8(self, images: torch.Tensor) -> NDArray[np.uint8]:
        """Make uint8 [n, H, W, 3] pictures of `decode`'s output, clamped and rounded."""

    @property
    def size_step(self) -> tuple[int, int]:
        """(H, W) in pixels: the sides of every image that it takes are multiples of these."""
        return (self.stride, self.stride)

    @property
    def grid(self) -> tuple[int, ...]:
        """Shape of one image's ids, (h, w)."""
        height, width = self.preprocessing.size
        return (height // self.stride, width // self.stride)

    def preprocess(self, image: "Image.Image") -> NDArray[np.uint8]:
        """Bring an RGB PIL image to the tokenizer's resolution, uint8 [H, W, 3].

        Nothing but `preprocessing`, which is all that a build's workers know of the tokenizer.
        """
        return self.preprocessing.apply(image)

    def prepare_by(self, rule: str | None, size: tuple[int, int] | None) -> None:
        """Resize images by another rule, or to another size, from now on; None keeps its own.

        Raises:
            UnknownName: no such resize rule.
            TokenizerError: sides that are no multiples of `size_step`.
        """
        mine = self.preprocessing
        asked = Preprocess(rule or mine.rule, size or mine.size)
        self.check_size(*asked.size)
        self.preprocessing = asked

    def check_made(self, owner: str, entry: Mapping[str, Any]) -> None:
        """Refuse to stand for the tokenizer that made a store, if its ids could mean other codes.

        The precision may differ: it says how the same codes were searched.

        Args:
            owner: the store, as the message calls it.
            entry: `name`, `config` and `weights` as in the store's manifest.

        Raises:
            Mismatch: another tokenizer, other weights or other settings.
        """
        if entry["name"] != self.name:
            raise Mismatch(
                f"{owner} was made by the tokenizer '{entry['name']}', not by '{self.name}'. "
                "Their codes have nothing in common: name the one that made it."
            )
        if entry["weights"] != self.weights_sha256:
            raise Mismatch(
                f"{owner} was made with {self.name} weights {entry['weights']}, found "
                f"{self.weights_sha256}. Give the weights that made it with --weights."
            )
        found = json.loads(json.dumps(self.describe()))  # lists for tuples, as in a manifest
        differing = [
            f"{key} {entry['config'].get(key)}, found {found.get(key)}"
            for key in sorted((found.keys() | entry["config"].keys()) - {"precision"})
            if entry["config"].get(key) != found.get(key)
        ]
        if differing:
            raise Mismatch(
                f"{owner} was made with {self.name} of {'; '.join(differing)}. "
                "Give the settings that made it with --config."
            )

    def restrict(self, ids: NDArray[np.integer]) -> None:
        """Search only these codes from now on; `encode` then gives the best code among them.

        Args:
            ids: the codes of an existing store, whose models know no others.

        Raises:
            TokenizerError: an id outside the codebook, or a tokenizer that has no such search.
        """
        raise TokenizerError(
            f"{self.name} cannot search only {len(ids)} of its codes; build without --vocabulary"
        )

    def check_size(self, height: int, width: int) -> None:
        """Refuse images of a size that is no multiple of `size_step`."""
        rows, columns = self.size_step
        if height % rows or width % columns or not height or not width:
            step = str(rows) if rows == columns else f"{rows}x{columns}"
            raise TokenizerError(
                f"{self.name} takes images whose sides are multiples of {step}, "
                f"not {height}x{width}"
            )

    def check_images(self, images: Images) -> torch.Tensor:
        """Images as a uint8 tensor [n, H, W, 3], refused where dtype or size is wrong."""
        tensor = torch.as_tensor(images)
        if tensor.dtype != torch.uint8 or tensor.ndim != 4 or tensor.shape[3] != 3:
            raise TokenizerError(
                f"{self.name} takes uint8 images [n, H, W, 3], got "
                f"{tensor.dtype} {list(tensor.shape)}. Pass each image through `preprocess` first."
            )
        self.check_size(tensor.shape[1], tensor.shape[2])
        return tensor

    def check_ids(self, ids: Ids) -> torch.Tensor:
        """Ids as int64, refused where one lies outside the codebook."""
        array = ids if isinstance(ids, torch.Tensor) else np.asarray(ids).astype(np.int64)
        tensor = torch.as_tensor(array).long()
        size = len(self.codebook)
        if tensor.numel() and not 0 <= int(tensor.min()) <= int(tensor.max()) < size:
            wrong = int(tensor.max()) if int(tensor.max()) >= size else int(tensor.min())
            raise TokenizerError(f"id {wrong} lies outside {self.name}'s codebook of {size} codes")
        return tensor
