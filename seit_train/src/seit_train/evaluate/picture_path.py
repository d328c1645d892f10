"""The way from a picture to logits as one module that can be differentiated or exported.

    pixels -> levels of the network -> latents -> nearest code -> rank -> embedding -> model

`tokenstore` runs the first half in batches that fit a device and without gradients; here the same
network, search and model stand in one graph. For gradients there is no nearest code, so something
takes its place: `Quantiser` says what.
"""

import copy
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from seit_train.augment.crop import center_crop
from seit_train.evaluate.trained import Trained
from seit_train.models.probe import LinearProbe
from seit_train.models.stem import IdEmbedding
from seit_train.tasks.classify import Classification
from tokenstore.errors import TokenizerError, UsageError
from tokenstore.tokenizers.base import Tokenizer
from tokenstore.tokenizers.network import NetworkTokenizer, join_grid, split_grid
from tokenstore.tokenizers.search import NearestCode

# What is done about the nearest code, which has no gradient: code in, gradient of the latents out
# (van den Oord et al., arXiv 1711.00937, section 3.2), or latents in place of codes altogether.
Quantiser = Literal["straight-through", "left-out"]

_WEIGHTS_AT_ONCE = 2**25  # numbers: 128 MB, and some times that with gradients


class Codes(nn.Module):
    """From values that the tokenizer's network takes to latents and ranks."""

    ranks: Tensor

    def __init__(self, tokenizer: Tokenizer, vocabulary: NDArray[np.integer]) -> None:
        """Take over a tokenizer.

        Args:
            tokenizer: searching the codes of the vocabulary only.
            vocabulary: ids in rank order.

        Raises:
            TokenizerError: a tokenizer that is no network of torch.
        """
        super().__init__()
        if not isinstance(tokenizer, NetworkTokenizer):
            raise TokenizerError(f"{tokenizer.name} is no network, so nothing passes through it")
        self.network, self.search = tokenizer.network, tokenizer.search
        self.stride = tokenizer.stride
        rank_of = {int(number): rank for rank, number in enumerate(vocabulary)}
        among = cast(Tensor, self.search.among).tolist()
        self.register_buffer("ranks", torch.tensor([rank_of[number] for number in among]))

    def latents(self, values: Tensor) -> Tensor:
        """Float [n,H,W,3] in the network's range -> float [n,h,w,d]."""
        tile = self.network.tile or (values.shape[1], values.shape[2])
        latents = self.network.encode(split_grid(values, tile).permute(0, 3, 1, 2))
        grid = values.shape[1] // self.stride, values.shape[2] // self.stride
        return join_grid(latents.permute(0, 2, 3, 1), grid)

    def nearest(self, latents: Tensor) -> Tensor:
        """Float [n,h,w,d] -> ranks, int64 [n,h,w]."""
        losses = self.search.losses(latents.reshape(-1, latents.shape[3]))
        return self.ranks[losses.argmin(dim=1)].view(latents.shape[:3])


class IdPath(nn.Module):
    """From ranks, or from weights of all ranks at each place, to the logits of a classifier.

    Attributes:
        embeds_ids: whether the model embeds ids by a table of its own, or takes codebook rows.
        rows: the codebook, float32 [K,d] in rank order, or None where the store has none.
    """

    def __init__(self, trained: Trained) -> None:
        """Take over a copy of the model.

        Raises:
            UsageError: the run does not classify tokens.
        """
        super().__init__()
        task = trained.task
        if not isinstance(task, Classification):
            raise UsageError(f"this attack is for runs of classify, not of {task.name}")
        if task.facts.scale is not None:
            raise UsageError("attacks exchange codes, and a grid with channels holds numbers")
        model = copy.deepcopy(trained.model).eval().requires_grad_(False)
        if isinstance(model, LinearProbe):  # which lets no gradient through to its backbone
            model = nn.Sequential(model.backbone, model.probe_norm, model.head)
        self.model, self.crop = model, task.policy.size
        rows = task.facts.codebook
        self.rows = None if rows is None else rows.to(trained.world.device)
        tables = [module for module in model.modules() if isinstance(module, IdEmbedding)]
        self.embeds_ids = bool(tables)
        for module in tables:
            module.table = cast(nn.Embedding, _SoftTable(module.table))
            self._codes = len(module.table.weight)
        if not tables:
            self._codes = len(cast(Tensor, self.rows))

    def forward(self, ranks: Tensor) -> Tensor:
        """Int64 [n,h,w] -> float32 [n,classes]."""
        if not self.embeds_ids:
            rows = cast(Tensor, self.rows)
            return self.embedded(nn.functional.embedding(ranks, rows).permute(0, 3, 1, 2))
        return cast(Tensor, self.model(center_crop(ranks, self.crop))).float()

    def images_at_once(self, places: int) -> int:
        """How many images' weights are held together, of grids with so many places."""
        return max(1, _WEIGHTS_AT_ONCE // (places * self._codes))

    def weighted(self, weights: Tensor) -> Tensor:
        """Float [n,h,w,K] -> float32 [n,classes]."""
        if not self.embeds_ids:
            return self.embedded((weights @ cast(Tensor, self.rows)).permute(0, 3, 1, 2))
        cropped = center_crop(weights.permute(0, 3, 1, 2), self.crop).permute(0, 2, 3, 1)
        return cast(Tensor, self.model(cropped)).float()

    def embedded(self, vectors: Tensor) -> Tensor:
        """Float [n,d,h,w], in place of codebook rows -> float32 [n,classes]."""
        return cast(Tensor, self.model(center_crop(vectors, self.crop))).float()

    def promise(self, ranks: Tensor, labels: Tensor, among: Tensor) -> Tensor:
        """What a substitution would do to the loss, were it linear: float [n,h*w,K].

        Args:
            ranks: int64 [n,h,w].
            labels: int64 [n], columns of the logits that count.
            among: int64, which logits those are.
        """
        with torch.enable_grad():
            weights = nn.functional.one_hot(ranks, self._codes).float().requires_grad_()
            loss = nn.functional.cross_entropy(
                self.weighted(weights)[:, among], labels, reduction="sum"
            )
            (gradient,) = torch.autograd.grad(loss, weights)
        gains = gradient - gradient.gather(3, ranks[..., None])
        return gains.scatter(3, ranks[..., None], -torch.inf).flatten(1, 2)


class AttackedPath(nn.Module):
    """Float pictures 0..1 to logits with a gradient all the way, for a classifier.

    * `straight-through`: the codes go in; backwards their gradient becomes that of the latents.
      Where the model embeds ids by a table of its own, it becomes that of the latents through a
      softmax of negated distances, whose unit is the mean distance of a code to its neighbour.
    * `left-out`: latents go in as if they were rows of the codebook. Only for models that embed
      with the codebook, which is as long as their channels.
    """

    def __init__(self, trained: Trained, tokenizer: Tokenizer, quantiser: Quantiser) -> None:
        """Build the path.

        Raises:
            UsageError: a run, tokenizer or embedding for which there is no such path.
        """
        super().__init__()
        self.ids = IdPath(trained)
        self.codes = Codes(tokenizer, trained.run.store.vocabulary.ids)
        if not isinstance(self.codes.search, NearestCode):
            raise UsageError(
                f"{tokenizer.name} has no codebook distances that a gradient could follow; attack "
                "with greedy-ids"
            )
        if self.ids.embeds_ids and quantiser == "left-out":
            raise UsageError(
                "the model embeds ids by a table of its own (model.embedding=ids), so latents "
                "cannot take the place of codes. Leave out --quantiser left-out."
            )
        self._search, self._quantiser = self.codes.search, quantiser
        self._levels = affine_levels(cast(NetworkTokenizer, tokenizer).network.levels)

    def forward(self, images: Tensor) -> Tensor:
        """Float [n,3,H,W], 0..1 -> float32 [n,classes]."""
        black, white = self._levels
        latents = self.codes.latents(black + images.permute(0, 2, 3, 1) * (white - black))
        if self.ids.embeds_ids:
            return self.ids.weighted(self._soft_ids(latents))
        return self.ids.embedded(self._vectors(latents).permute(0, 3, 1, 2))

    def _vectors(self, latents: Tensor) -> Tensor:
        """What goes in place of codebook rows: float [n,h,w,d] -> the same shape."""
        chosen = cast(Tensor, self.ids.rows)[self.codes.nearest(latents)]
        if self._search.normalise:  # the network searches by angle, the model has the stored length
            latents = nn.functional.normalize(latents, dim=3) * chosen.norm(dim=3, keepdim=True)
        return chosen + latents - latents.detach() if self._is_straight else latents

    @property
    def _is_straight(self) -> bool:
        return self._quantiser == "straight-through"

    def _soft_ids(self, latents: Tensor) -> Tensor:
        """One-hot ranks with the gradient of a softmax: float [n,h,w,d] -> [n,h,w,K]."""
        flat = latents.reshape(-1, latents.shape[3])
        soft = (-self._search.losses(flat) / code_distance(self._search.rows)).softmax(dim=1)
        by_rank = soft[:, self.codes.ranks.argsort()].view(*latents.shape[:3], -1)
        hard = nn.functional.one_hot(self.codes.nearest(latents), by_rank.shape[3])
        return hard + by_rank - by_rank.detach()


class _SoftTable(nn.Module):
    """An embedding table that takes weights of all ranks too."""

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.weight = table.weight

    def forward(self, weights: Tensor) -> Tensor:
        """Float [...,K], or int64 [...] -> float [...,width]."""
        if weights.is_floating_point():
            return weights @ self.weight
        return nn.functional.embedding(weights, self.weight)


def code_distance(rows: Tensor) -> Tensor:
    """Mean squared distance of a code to its nearest neighbour, 0-d, never 0; rows [K,d]."""
    distances = torch.cdist(rows, rows).square().fill_diagonal_(torch.inf)
    return distances.min(dim=1).values.mean().clamp(min=1e-12)


def affine_levels(levels: NDArray[np.float32]) -> tuple[float, float]:
    """What the network takes for black and white, if it takes what lies between on a line.

    Raises:
        TokenizerError: it does not.
    """
    black, white = float(levels[0]), float(levels[-1])
    line = np.linspace(black, white, len(levels))
    if np.abs(line - levels).max() > 1e-4 * abs(white - black):
        raise TokenizerError("the tokenizer's levels of grey lie on no line, so none lies between")
    return black, white
