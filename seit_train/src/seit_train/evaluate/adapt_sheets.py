"""Two pictures of what token augmentations do, decoded: geometry, and colour (as in SeiT++).

Drawn from a store of pairs, the TokenAdapt that learnt from it, and the tokenizer, whose decoder
shows the ids that each way ends with. Figures 3, 5, C and D of SeiT++ look like this. Nothing is
measured here.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seit_train.augment.base import Codes, Surroundings, View
from seit_train.augment.color_adapt import adapt
from seit_train.augment.compose import make_augmentation
from seit_train.augment.geometry import KINDS, pair_warps, warp
from seit_train.augment.token_adapt import load_token_adapt
from seit_train.embed import Codebook
from tokenstore.contact_sheet import contact_sheet, save_picture
from tokenstore.reader import Split, Store
from tokenstore.tokenizers.base import Tokenizer

Pictures = NDArray[np.uint8]  # [n, H, W, 3]

GEOMETRY_SHEET, COLOUR_SHEET = "geometry.png", "colour.png"
_SHOWN = (1, 2, 4, 6)  # places in KINDS: flip, rotation, shear, all
_SHIFT = 1.0  # of a single channel, in standard deviations of the codebook


def draw_sheets(run: Path, store: Store, tokenizer: Tokenizer) -> list[Path]:
    """Write both pictures, of as many held-out images as kinds are shown, into a run's folder.

    Args:
        run: of `seit-train tokenadapt`.
        store: its pairs.
        tokenizer: the one that made them.

    Returns:
        The files written.
    """
    split = store.splits.get("val") or store["train"]
    firsts = np.flatnonzero(split.labels == 0)
    firsts = firsts[np.linspace(0, len(firsts) - 1, len(_SHOWN)).astype(int)]
    sheets = _Sheets(store, tokenizer)
    for name, columns in (
        (GEOMETRY_SHEET, sheets.geometry(run, split, firsts)),
        (COLOUR_SHEET, sheets.colour(split, firsts)),
    ):
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        captions = [list(columns)] * len(rows)
        if name == GEOMETRY_SHEET:
            captions = [[f"{text}\n{KINDS[kind]}" for text in columns] for kind in _SHOWN]
        save_picture(contact_sheet(rows, captions), run / name)
    return [run / GEOMETRY_SHEET, run / COLOUR_SHEET]


class _Sheets:
    """Columns of pictures by caption, for one store and tokenizer."""

    def __init__(self, store: Store, tokenizer: Tokenizer) -> None:
        self.store, self.tokenizer = store, tokenizer
        manifest, vocabulary = store.manifest, store.vocabulary
        made_by = manifest.tokenizer.model_dump(mode="json")
        ids = torch.tensor(vocabulary.ids).long()
        codes = Codes(made_by, dict(manifest.preprocess), ids)
        rows = torch.tensor(vocabulary.codebook)
        grid = manifest.grid[0] // 2, manifest.grid[1]
        self.around = Surroundings(grid, rows, codes)
        self.codebook = Codebook(rows, "euclidean")

    @torch.no_grad()
    def geometry(self, run: Path, split: Split, firsts: NDArray[np.int64]) -> dict[str, Pictures]:
        """Original, pixels augmented and tokenized, ids augmented, TokenAdapt; one kind a row."""
        kinds = torch.tensor(_SHOWN)
        numbers = firsts + kinds.numpy()  # the pairs of an image lie in the order of their kinds
        before, after = self._ranks(split, numbers).chunk(2, dim=1)
        grid = self.around.size
        warps = pair_warps(torch.from_numpy(numbers), kinds, grid)
        naive = warp(before[:, None].float(), warps, grid, "nearest")[:, 0].long()
        model = load_token_adapt(str(run), self.around)
        adapted = warp(model.adapt(self.codebook(before)), warps, (2 * grid[0], 2 * grid[1]))
        return {
            "original": self._decoded(before),
            "pixels, tokenized": self._decoded(after),
            "ids as they are": self._decoded(naive),
            "TokenAdapt": self._decoded(model.restore(adapted).argmax(dim=-1)),
        }

    def colour(self, split: Split, firsts: NDArray[np.int64]) -> dict[str, Pictures]:
        """Original, brightness and contrast of pixels, noise, one channel shifted, ColorAdapt."""
        before = self._ranks(split, firsts).chunk(2, dim=1)[0]
        original, grid = self._decoded(before), self.codebook(before)
        pixels = original.astype(np.float32)
        noise = make_augmentation({"emb_noise": {"p": 1.0}}, self.around)
        rng = torch.Generator().manual_seed(0)
        columns = {
            "original": original,
            "pixels 1.4 x brighter": (pixels * 1.4).clip(0, 255).astype(np.uint8),
            "1.6 x contrast": ((pixels - 128) * 1.6 + 128).clip(0, 255).astype(np.uint8),
            "Emb-Noise": self._nearest(noise(View(grid, None), rng).tokens),
        }
        for channel in range(2):
            moved = grid.clone()
            moved[:, channel] += _SHIFT * self.codebook.rows[:, channel].std()
            columns[f"channel {channel} shifted"] = self._nearest(moved)
        columns["ColorAdapt"] = self._nearest(adapt(grid, torch.arange(len(grid)).roll(-1)))
        return columns

    def _ranks(self, split: Split, numbers: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(split.read(numbers).ranks.astype(np.int64))

    def _nearest(self, grid: Tensor) -> Pictures:
        return self._decoded(self.codebook.nearest(grid))

    def _decoded(self, ranks: Tensor) -> Pictures:
        ids = self.store.ids(ranks.numpy())
        return self.tokenizer.to_uint8(self.tokenizer.decode(ids))
