"""TokenAdapt: geometry (and mixing) where it works as on pixels, and back to ids (SeiT++ 3.2).

A model that `seit-train tokenadapt` trained for this very tokenizer takes vectors into a space of
twice the sides; images are flipped, turned, shifted, sheared, cropped and mixed there, and it says
which ids the tokenizer would have given. Nothing here learns: the model is frozen. SeiT++
sends half of each batch through it, see `halves` in compose.py.
"""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from seit_train.augment.base import (
    Augmentation,
    Codes,
    Surroundings,
    View,
    chance,
    output_sizes,
    select,
)
from seit_train.augment.crop import CropSize, refuse_larger
from seit_train.augment.geometry import Geometry, draw_warps, warp
from seit_train.augment.mixing import draw_masks, draw_partners, draw_shares, mix_targets
from seit_train.checkpoint import find_weights, load_weights
from seit_train.config import Settings
from seit_train.models.token_adapt import Adapter, TokenAdapt, TokenAdaptConfig
from seit_train.models.tuned_tokenizer import TunedTokenizer
from seit_train.precision import autocast, resolve_precision
from tokenstore.errors import Mismatch, TrainingError
from tokenstore.tokenizers.checkpoints import write_tensors
from tokenstore.tokenizers.pocket import PocketConfig

_METADATA_KEY = "token_adapt"  # one entry: safetensors writes several in any order


class TokenAdaptOptions(Settings):
    """Which model, and what happens in its space.

    Attributes:
        weights: run of `seit-train tokenadapt`, one of its checkpoints, or a file; None means the
            one that comes with this package for the store's tokenizer.
        size: rows and columns that come out; 7/8 of the grid where it is not given.
        geometry: how far images are flipped, turned, shifted, sheared and cropped.
        mixup: alpha of Mixup in the adapted space; 0 means none. SeiT++ classifies with 0.8.
        cutmix: alpha of CutMix there; 0 means none. With both, an image gets either. SeiT++: 1.
    """

    weights: str | None = None
    size: CropSize = None
    geometry: Geometry = Geometry()
    mixup: Annotated[float, Field(ge=0)] = 0.0
    cutmix: Annotated[float, Field(ge=0)] = 0.0


class AdaptedGeometry(Augmentation[TokenAdaptOptions]):
    """Geometry in the adapted space; what comes out are rows of the codebook again."""

    space = "grid"
    Options = TokenAdaptOptions
    codebook: Tensor
    barred: Tensor
    ranks: Tensor

    def __init__(self, options: TokenAdaptOptions, around: Surroundings) -> None:
        super().__init__(options, around)
        self.size = output_sizes(options.size, around.size)
        refuse_larger(self.size, around.size)
        self.keeps_masks = not (options.mixup or options.cutmix)
        self.grid = around.size
        self.model = load_adapter(options.weights, around)
        codes, rows = _known(around)
        barred, ranks = _ranks_of(self.model.ids, codes.ids)
        self.register_buffer("codebook", rows.float(), persistent=False)
        self.register_buffer("barred", barred, persistent=False)
        self.register_buffer("ranks", ranks, persistent=False)

    def forward(self, view: View, rng: torch.Generator) -> View:
        """Float32 [B,d,h,w] -> [B,d,*size]; in the device's fast precision, as nothing learns."""
        grid, targets, masks = view
        precision = resolve_precision("auto", grid.device)
        warps = draw_warps(grid, self.grid, self.options.geometry, rng)
        sides = self.model.scale * self.size[0], self.model.scale * self.size[1]
        with torch.no_grad(), autocast(precision, grid.device):
            adapted = warp(self.model.adapt(grid).float(), warps, sides)
            adapted, targets = self._mix(adapted, targets, rng)
            best = (self.model.restore(adapted).float() + self.barred).argmax(dim=-1)
        vectors = torch.nn.functional.embedding(self.ranks[best], self.codebook)
        if masks is not None:
            masks = self._warp_masks(masks, warps)
        return View(vectors.permute(0, 3, 1, 2), targets, masks)

    def _warp_masks(self, masks: Tensor, warps: Tensor) -> Tensor:
        """Int64 [B,H,W] as the grids go, the nearest class, and -1 for what comes from outside."""
        scale = masks.shape[-2] // self.grid[0]
        sides = scale * self.size[0], scale * self.size[1]
        return warp((masks + 1).float()[:, None], warps, sides, "nearest")[:, 0].long() - 1

    def _mix(
        self, adapted: Tensor, targets: Tensor | None, rng: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Mixup, CutMix, either of the two for each image, or neither."""
        mixup, cutmix = self.options.mixup, self.options.cutmix
        if not mixup and not cutmix:
            return adapted, targets
        partner = draw_partners(adapted, rng)
        pasted = chance(0.5 if mixup and cutmix else float(cutmix > 0), adapted, rng)
        blend = 1 - draw_shares(mixup or 1.0, adapted, rng)
        kept = draw_shares(cutmix or 1.0, adapted, rng)
        inside = draw_masks(kept, (adapted.shape[-2], adapted.shape[-1]), rng).float()
        share = select(pasted, inside, blend[:, None, None].expand_as(inside))
        mixed = torch.lerp(adapted, adapted[partner], share[:, None])
        return mixed, mix_targets(targets, share.mean(dim=(1, 2)), partner)


class MadeBy(Settings):
    """A tokenizer: its name, and the hash of its weights where it has some."""

    name: str
    weights: str | None


class AdapterOrigin(Settings):
    """What stands beside the weights of an adapter, so that they can be loaded and judged.

    Attributes:
        sizes: of the published halves; None where it is made of those of the tokenizer.
        grid: rows and columns that it was trained on.
        tokenizer: the one it was trained for.
    """

    sizes: TokenAdaptConfig | None
    grid: tuple[int, int]
    tokenizer: MadeBy

    def as_metadata(self) -> dict[str, str]:
        """For the weights file: one entry of JSON."""
        return {_METADATA_KEY: self.model_dump_json()}


def read_adapter(place: Path) -> tuple[dict[str, Tensor], AdapterOrigin]:
    """Weights and origin of an adapter, from a run, a checkpoint or a file.

    Raises:
        TrainingError: there is none at that place.
    """
    file = find_weights(place)
    weights, metadata = load_weights(file)
    if _METADATA_KEY not in metadata:
        raise TrainingError(
            f"'{file}' holds no TokenAdapt. Give the run that `seit-train tokenadapt` wrote."
        )
    bare = {name.removeprefix("adapter."): tensor for name, tensor in weights.items()}
    return bare, AdapterOrigin.model_validate_json(metadata[_METADATA_KEY])


def save_small(run: Path, file: Path) -> None:
    """Write the adapter of a run in half precision, as a file to hand on; its codes stay exact."""
    weights, origin = read_adapter(run)
    for name, tensor in weights.items():
        if name == "ids":
            weights[name] = tensor.int()
        elif name != "rows":
            weights[name] = tensor.half()
    write_tensors(file, weights, origin.as_metadata())


def shipped_weights(tokenizer: str) -> Path:
    """Where the TokenAdapt that comes with this package for a tokenizer lies, or would lie."""
    folder = Path(str(resources.files("seit_train.augment")))
    return folder / f"token_adapt_{tokenizer.replace('-', '_')}.safetensors"


def load_adapter(place: str | None, around: Surroundings) -> Adapter:
    """A trained TokenAdapt, frozen, for grids of `around`.

    Args:
        place: run, checkpoint or file; None means the one that comes with this package.
        around: of the store.

    Raises:
        TrainingError: there is none at that place, or none comes for the store's tokenizer.
        Mismatch: it was trained for another tokenizer, where the same id means another code, or
            for grids of another size.
    """
    ours = _known(around)[0].tokenizer
    file = _shipped(ours["name"]) if place is None else Path(place)
    weights, origin = read_adapter(file)
    trained = origin.tokenizer
    if (trained.name, trained.weights) != (ours["name"], ours["weights"]):
        raise Mismatch(
            f"TokenAdapt '{file}' was trained for tokenizer {_named(trained)}, this store was made "
            f"by {_named(MadeBy(name=ours['name'], weights=ours['weights']))}: the same id means "
            f"another code. {_train_one(ours['name'])}"
        )
    adapter = _empty(origin, around, weights, file)
    adapter.load_state_dict(weights)
    return adapter.eval().requires_grad_(False)


def _known(around: Surroundings) -> tuple[Codes, Tensor]:
    """What ids mean and the codebook, float [K,d], of a store that has both."""
    if around.codes is None or around.codebook is None:
        raise TrainingError(
            "token_adapt needs a store with a codebook and a known tokenizer. Build the store "
            "with `tokenstore build`, or leave it out of augment."
        )
    return around.codes, around.codebook


def _shipped(tokenizer: str) -> Path:
    file = shipped_weights(tokenizer)
    if not file.is_file():
        raise TrainingError(
            f"no TokenAdapt comes with this package for tokenizer {tokenizer}. "
            f"{_train_one(tokenizer)}"
        )
    return file


def _empty(
    origin: AdapterOrigin, around: Surroundings, weights: Mapping[str, Tensor], file: Path
) -> Adapter:
    """The adapter that these weights fit, without them."""
    codes, codebook = _known(around)
    ids = weights["ids"].long()
    if origin.sizes is None:
        numbers = {**codes.tokenizer["config"]}
        numbers.pop("precision", None)
        return TunedTokenizer(PocketConfig(**numbers), ids, weights["rows"])
    if origin.grid != tuple(around.size):
        rows, columns = origin.grid
        raise Mismatch(
            f"TokenAdapt '{file}' was trained on grids of {rows}x{columns}, and knows each place "
            f"of them; here they are {around.size[0]}x{around.size[1]}. "
            f"{_train_one(codes.tokenizer['name'])}"
        )
    return TokenAdapt(origin.sizes, origin.grid, codebook.shape[1], ids)


def _train_one(tokenizer: str) -> str:
    return (
        f"Train one with `seit-train tokenadapt IMAGES --tokenizer {tokenizer} -o RUN` on images "
        "of this size, and say token_adapt: {weights: RUN}."
    )


def _ranks_of(known: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """What the logits of ids `known` [A] mean in a store of `ids` [K].

    Returns:
        Float32 [A]: minus infinity where the store lacks the id, else 0; int64 [A]: its rank.
    """
    order = ids.argsort()
    found = torch.searchsorted(ids[order], known).clamp(max=len(ids) - 1)
    ranks = order[found]
    barred = torch.where(ids[ranks] == known, 0.0, -torch.inf)
    if bool(barred.isinf().all()):
        raise Mismatch(
            f"this TokenAdapt knows none of the {len(ids)} codes of the store. Train one on images "
            "like those of the store."
        )
    return barred, ranks


def _named(tokenizer: MadeBy) -> str:
    return f"{tokenizer.name} (weights {str(tokenizer.weights)[:12]})"


PLUGIN = AdaptedGeometry
