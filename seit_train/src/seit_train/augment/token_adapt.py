"""TokenAdapt: geometry (and mixing) where it works as on pixels, and back to ids (SeiT++ 3.2).

A model that `seit-train tokenadapt` trained for this very tokenizer takes vectors into a space of
twice the sides; images are flipped, turned, shifted, sheared, cropped and mixed there, and it says
which ids the tokenizer would have given. Nothing here learns: the model is frozen. SeiT++
sends half of each batch through it, see `halves` in compose.py.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from seit_train.augment.base import Augmentation, Surroundings, View, chance, output_sizes, select
from seit_train.augment.crop import CropSize, refuse_larger
from seit_train.augment.geometry import Geometry, draw_warps, warp
from seit_train.augment.mixing import draw_masks, draw_partners, draw_shares, mix_targets
from seit_train.checkpoint import find_weights, load_weights
from seit_train.config import Settings
from seit_train.models.token_adapt import TokenAdapt, TokenAdaptConfig
from seit_train.precision import autocast, resolve_precision
from tokenstore.errors import Mismatch, TrainingError


class TokenAdaptOptions(Settings):
    """Which model, and what happens in its space.

    Attributes:
        weights: run of `seit-train tokenadapt`, one of its checkpoints, or a file.
        size: rows and columns that come out; 7/8 of the grid where it is not given.
        geometry: how far images are flipped, turned, shifted, sheared and cropped.
        mixup: alpha of Mixup in the adapted space; 0 means none. SeiT++ classifies with 0.8.
        cutmix: alpha of CutMix there; 0 means none. With both, an image gets either. SeiT++: 1.
    """

    weights: str
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
        if around.codebook is None or around.codes is None:
            raise TrainingError(
                "token_adapt needs a store with a codebook and a known tokenizer. Build the store "
                "with `tokenstore build`, or leave it out of augment."
            )
        self.keeps_masks = not (options.mixup or options.cutmix)
        self.model = load_token_adapt(options.weights, around)
        barred, ranks = _ranks_of(self.model.ids, around.codes.ids, options.weights)
        self.register_buffer("codebook", around.codebook.float(), persistent=False)
        self.register_buffer("barred", barred, persistent=False)
        self.register_buffer("ranks", ranks, persistent=False)

    def forward(self, view: View, rng: torch.Generator) -> View:
        """Float32 [B,d,h,w] -> [B,d,*size]; in the device's fast precision, as nothing learns."""
        grid, targets, masks = view
        precision = resolve_precision("auto", grid.device)
        warps = draw_warps(grid, self.grid, self.options.geometry, rng)
        sides = 2 * self.size[0], 2 * self.size[1]
        with torch.no_grad(), autocast(precision, grid.device):
            adapted = warp(self.model.adapt(grid).float(), warps, sides)
            adapted, targets = self._mix(adapted, targets, rng)
            best = (self.model.restore(adapted).float() + self.barred).argmax(dim=-1)
        vectors = torch.nn.functional.embedding(self.ranks[best], self.codebook)
        if masks is not None:
            masks = self._warp_masks(masks, warps)
        return View(vectors.permute(0, 3, 1, 2), targets, masks)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns that come in."""
        return self.model.grid

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


def token_adapt_origin(config: TokenAdaptConfig, tokenizer: Any) -> dict[str, str]:
    """The facts beside the weights that `load_token_adapt` reads."""
    made_by = {"name": tokenizer["name"], "weights": tokenizer["weights"]}
    return {"token_adapt": config.model_dump_json(), "tokenizer": json.dumps(made_by)}


def load_token_adapt(place: str, around: Surroundings) -> TokenAdapt:
    """A trained TokenAdapt, frozen, for grids of `around`.

    Raises:
        TrainingError: there is none at that place.
        Mismatch: it was trained for another tokenizer: the same id means another code.
    """
    file = find_weights(Path(place))
    weights, origin = load_weights(file)
    if "token_adapt" not in origin or around.codes is None or around.codebook is None:
        raise TrainingError(
            f"'{file}' holds no TokenAdapt. Give the run that `seit-train tokenadapt` wrote."
        )
    trained, ours = json.loads(origin["tokenizer"]), around.codes.tokenizer
    if (trained["name"], trained["weights"]) != (ours["name"], ours["weights"]):
        raise Mismatch(
            f"TokenAdapt '{file}' was trained for tokenizer {_named(trained)}, this store was made "
            f"by {_named(ours)}: the same id means another code. Train one with "
            f"`seit-train tokenadapt IMAGES --tokenizer {ours['name']}`."
        )
    config = TokenAdaptConfig.model_validate_json(origin["token_adapt"])
    model = TokenAdapt(config, around.size, around.codebook.shape[1], weights["ids"])
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False)


def _ranks_of(known: Tensor, ids: Tensor, place: str) -> tuple[Tensor, Tensor]:
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
            f"TokenAdapt '{place}' knows none of the {len(ids)} codes of this store. Train one on "
            "images like those of the store."
        )
    return barred, ranks


def _named(tokenizer: Any) -> str:
    return f"{tokenizer['name']} (weights {str(tokenizer['weights'])[:12]})"


PLUGIN = AdaptedGeometry
