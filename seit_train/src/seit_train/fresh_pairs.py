"""Fresh pairs: pictures that are warped anew at each step, and tokenized within it.

A store of pairs shows the same few warps of a picture in every epoch. Where pictures are few and
epochs many, each step can warp them anew, as the published training does, for the price of the
tokenizer's encoder. Which pictures they are and what they are called in the store stays with
`seit_train.pairs`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seit_train.augment.base import Codes
from seit_train.augment.geometry import fresh_warps, warp_pictures
from tokenstore.errors import TrainingError
from tokenstore.preprocess import Preprocess


class FreshPairs:
    """The pictures of a store of pairs, and their tokenizer."""

    def __init__(self, file: Path, views: int, weights: str | None, codes: Codes) -> None:
        """Open the pictures; nothing is read yet.

        Args:
            file: uint8 [n,H,W,3] as `seit_train.pairs.keep_pictures` writes them.
            views: pairs of each picture in the store.
            weights: of the tokenizer; None means its own place.
            codes: of the store; ids that it lacks are never given.

        Raises:
            TrainingError: there is no such file, or it is of another size.
        """
        from tokenstore.tokenizers import load_tokenizer

        made_by: Mapping[str, Any] = codes.tokenizer
        preprocess = Preprocess.from_json(dict(codes.preprocess))
        self.views = views
        try:
            self.pictures = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise TrainingError(
                f"'{file}' holds no pictures to make pairs of: {error}. Let `seit-train tokenadapt "
                "--fresh` write it."
            ) from error
        if self.pictures.shape[1:] != (*preprocess.size, 3):
            raise TrainingError(
                f"'{file}' holds pictures of {self.pictures.shape[1:]}, and the pairs are of "
                f"{preprocess.size}. Remove it: `seit-train tokenadapt --fresh` writes it again."
            )
        self.tokenizer = load_tokenizer(made_by["name"], weights, preprocess=preprocess)
        self.tokenizer.check_made("the store of pairs", made_by)
        self.tokenizer.restrict(codes.ids.numpy())
        self.ranks = torch.zeros(int(codes.ids.max()) + 1, dtype=torch.int64)
        self.ranks[codes.ids] = torch.arange(len(codes.ids))

    def draw(self, index: Tensor, kinds: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Other warps of the pictures behind these samples.

        Args:
            index: int64 [B], sample numbers in train.
            kinds: int64 [B], places in `KINDS`.
            rng: on the device of both.

        Returns:
            The warps, float32 [B,3,3], and the ranks of what they make of the pictures, int64
            [B,h,w].
        """
        pictures = torch.from_numpy(self.pictures[(index // self.views).cpu().numpy()])
        size = pictures.shape[1], pictures.shape[2]
        warps = fresh_warps(kinds, size, rng)
        ids = self.tokenizer.encode(warp_pictures(pictures, warps.cpu(), size))
        return warps, self.ranks[ids.cpu()].to(index.device)
