"""Remapped codebooks: a model whose ids are positions in a list of the codes that are in use.

The list is a .npy file that a VQGAN's yaml names as `remap`, or a tensor `quantize.used` among its
weights. The published code gives a cell whose code is not listed a random id, anew at each call;
here that is an error, since no store may hold such ids.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tokenstore.errors import TokenizerError, WeightsError
from tokenstore.tokenizers.search import NearestCode


class RemappedCode(NearestCode):
    """The nearest of all codes, called by its position in `used`."""

    used: torch.Tensor
    positions: torch.Tensor

    def __init__(self, codebook: torch.Tensor, used: torch.Tensor) -> None:
        """Search a codebook [K, d] of which the ids `used`, int64 [R], have a position."""
        super().__init__(codebook, normalise=False)
        positions = torch.full((len(codebook),), -1)
        positions[used] = torch.arange(len(used))
        self.register_buffer("used", used)
        self.register_buffer("positions", positions)

    def restrict(self, ids: torch.Tensor) -> None:
        """See `CodeSearch.restrict`; ids are positions, all of which are listed."""
        super().restrict(self.used[ids].sort().values)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """See `CodeSearch.forward`.

        Raises:
            TokenizerError: a winning code is not listed.
        """
        codes = super().forward(latents)
        positions = self.positions[codes]
        if bool((positions < 0).any()):
            raise TokenizerError(
                f"code {int(codes[positions < 0][0])} is the nearest for a cell of these images, "
                f"but the remap lists {len(self.used)} codes without it. Load the model without "
                "its remap, or search the codes of a store only (--vocabulary)."
            )
        return positions


def read_remap(yaml: Path, name: object, codes: int) -> torch.Tensor:
    """The list that a yaml names, as int64 [R].

    Args:
        yaml: the file that names it; a relative name starts from its folder.
        name: what it says under `remap`.
        codes: size of the codebook.

    Raises:
        WeightsError: the file is missing or no list of distinct codes of this codebook.
    """
    file = yaml.parent / str(name)
    try:
        used = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise WeightsError(
            f"'{yaml}' says remap is {name!r}, but '{file}' is no readable .npy file of numbers "
            f"({error}). Put the file there, or drop the line to use all {codes} codes."
        ) from error
    if not isinstance(used, np.ndarray):
        raise WeightsError(f"'{file}' is an archive, expected one .npy array of code ids.")
    return checked_remap(used, codes, str(file))


def checked_remap(used: NDArray[Any], codes: int, where: str) -> torch.Tensor:
    """A list of codes as int64 [R], refused where it is none.

    Raises:
        WeightsError: another dtype or shape, an id outside the codebook, or one listed twice.
    """
    if used.ndim != 1 or used.dtype.kind not in "iu" or not len(used):
        raise WeightsError(
            f"the remap in '{where}' is {used.dtype} {list(used.shape)}, expected a list of "
            "integers, one code id for each new id."
        )
    outside = used[(used < 0) | (used >= codes)]
    if len(outside):
        raise WeightsError(
            f"the remap in '{where}' lists code {outside[0]}, which a codebook of {codes} codes "
            "does not have: it belongs to another model."
        )
    ids, times = np.unique(used, return_counts=True)
    if len(ids) < len(used):
        raise WeightsError(
            f"the remap in '{where}' lists code {ids[times > 1][0]} {times.max()} times; each "
            "code can have one new id only."
        )
    return torch.from_numpy(used.astype(np.int64))


def describe_remap(used: torch.Tensor) -> dict[str, Any]:
    """JSON facts that tell one list from another."""
    digest = hashlib.sha256(used.numpy().astype("<i8").tobytes()).hexdigest()
    return {"codes": len(used), "sha256": digest}
