"""TokenAdapt: learn which ids a tokenizer gives for an augmented picture (SeiT++ section 3.2).

It trains on a store of pairs (`seit_train.pairs`): each sample's grid is that of an image above
that of the same image after a warp, and its label is the kind of warp. The warp is a pure function
of sample number and kind, so it is done to the adapted tokens here as it was done to the pixels.
"""

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from seit_train.augment.base import Codes
from seit_train.augment.geometry import KINDS, pair_warps, warp
from seit_train.augment.token_adapt import AdapterOrigin, MadeBy
from seit_train.config import Positive, RunConfig, Settings
from seit_train.data import TokenBatch
from seit_train.distributed import sum_over_processes
from seit_train.fresh_pairs import FreshPairs
from seit_train.models.cross_entropy import cross_entropy
from seit_train.models.token_adapt import Adapter, TokenAdapt, TokenAdaptConfig, layer_of
from seit_train.models.tuned_tokenizer import TunedTokenizer
from seit_train.tasks.base import InitReport, StepResult, StoreFacts, Task
from tokenstore.errors import TrainingError

FIGURES = ("loss", "exact", "naive")  # what evaluation says of each kind of warp

_SHARPER = 50 / 3  # the mean of p is then the share of exact ids, within a hundredth


class FreshConfig(Settings):
    """Where the pictures are, as `seit-train tokenadapt --fresh` writes them.

    Attributes:
        pictures: file of the pictures of train.
        views: pairs of each in the store.
    """

    pictures: str
    views: Positive


class PairConfig(RunConfig):
    """A run on pairs: what every run has, and what the model is made of.

    Attributes:
        model: the sizes of the published halves, or `tokenizer`: those of `pocket` itself, tuned.
        weights: the tokenizer's, for `tokenizer` and `fresh`; None means those of its own place.
        objective: the published `cross-entropy`, or `exact`: the share of tokens whose id is not
            given, as `share_of_errors` says.
        fresh: pictures that are warped anew at each step; None trains on the pairs as they are.
    """

    model: TokenAdaptConfig | Literal["tokenizer"] = TokenAdaptConfig()
    weights: str | None = None
    objective: Literal["cross-entropy", "exact"] = "cross-entropy"
    fresh: FreshConfig | None = None


class PairModel(nn.Module):
    """An adapter between ranks of a picture and logits of its warped form."""

    rows: Tensor

    def __init__(self, adapter: Adapter, rows: Tensor) -> None:
        """Put it behind a codebook, float32 [K,d], which is no part of the weights."""
        super().__init__()
        self.adapter = adapter
        self.register_buffer("rows", rows, persistent=False)

    def forward(self, ranks: Tensor, warps: Tensor) -> Tensor:
        """Int64 [B,h,w] and float32 [B,3,3] -> logits float [B,h,w,K]."""
        embedded = functional.embedding(ranks, self.rows).permute(0, 3, 1, 2)
        scale = self.adapter.scale
        sides = scale * ranks.shape[1], scale * ranks.shape[2]
        return self.adapter.restore(warp(self.adapter.adapt(embedded).float(), warps, sides))


class TokenAdaptation(Task):
    """Cross-entropy with the ids of the augmented picture."""

    name = "tokenadapt"
    Config = PairConfig
    best_metric = "val_exact"
    higher_is_better = True
    config: PairConfig

    def __init__(self, config: PairConfig, facts: StoreFacts) -> None:
        super().__init__(config, facts)
        rows, columns = facts.grid
        if rows % 2 or not facts.classes:
            raise TrainingError(
                f"TokenAdapt learns from a store of pairs, and this one has grids of {rows}x"
                f"{columns} and {len(facts.classes)} kinds. Let `seit-train tokenadapt` make it."
            )
        self.grid = rows // 2, columns

    @cached_property
    def fresh(self) -> FreshPairs | None:
        """The pictures behind the pairs; opened by training only, not to evaluate."""
        config, codes = self.config.fresh, self.facts.codes
        if config is None or codes is None:
            return None
        return FreshPairs(Path(config.pictures), config.views, self.config.weights, codes)

    def build_model(self) -> PairModel:
        """A fresh adapter: of random weights, or of those of the tokenizer."""
        rows, codes, model = self.facts.codebook, self.facts.codes, self.config.model
        if rows is None or codes is None:
            raise TrainingError(
                "TokenAdapt needs the tokenizer's codebook, and this store has none."
            )
        if model == "tokenizer":
            return PairModel(_start_of(codes, self.config.weights), rows)
        return PairModel(TokenAdapt(model, self.grid, rows.shape[1], codes.ids), rows)

    def loss(self, model: nn.Module, batch: TokenBatch, rng: torch.Generator) -> StepResult:
        """Mean (focused) cross-entropy; where pairs are not fresh they are what they are."""
        kinds, (before, after) = _kinds(batch), batch.ranks.chunk(2, dim=1)
        if self.fresh is None:
            warps = pair_warps(batch.index, kinds, self.grid)
        else:
            warps, after = self.fresh.draw(batch.index, kinds, rng)
        logits = model(before, warps)
        is_exact = self.config.objective == "exact"
        losses = share_of_errors(logits, after) if is_exact else cross_entropy(logits, after)
        exact = (logits.detach().argmax(dim=-1) == after).float()
        valid = batch.valid.float() / batch.valid.sum().clamp(min=1)
        loss, right = ((x.mean(dim=(1, 2)) * valid).sum() for x in (losses, exact))
        return StepResult(loss, {"exact": right})

    def evaluate(self, model: nn.Module, batches: Iterable[TokenBatch]) -> dict[str, float]:
        """`val_loss` (nats a token), and the shares of exactly predicted ids.

        `val_exact` is over all pairs, `val_exact_<kind>` and `val_loss_<kind>` over those of one
        kind. Beside them stands what the naive way gets, the same warp done to the grid of ids
        itself: `val_naive_<kind>`.
        """
        kinds = self.facts.classes
        device = next(model.parameters()).device
        sums = torch.zeros(len(kinds), 4, dtype=torch.float64, device=device)
        for batch in batches:
            figures = self._figures(model, batch).double() * batch.valid[:, None]
            sums.index_add_(0, _kinds(batch), figures)
        sums = sum_over_processes(sums)
        loss, exact, _, count = sums.sum(dim=0).tolist()
        metrics = {"val_loss": loss / count, "val_exact": exact / count}
        for kind, (*figures, pairs) in zip(kinds, sums.tolist(), strict=True):
            for name, figure in zip(FIGURES, figures, strict=True):
                if pairs:
                    metrics[f"val_{name}_{kind.replace(' ', '_')}"] = figure / pairs
        return metrics

    def _figures(self, model: nn.Module, batch: TokenBatch) -> Tensor:
        """Of each pair, float [B,4]: the `FIGURES`, and a one to count it by."""
        before, after = batch.ranks.chunk(2, dim=1)
        warps = pair_warps(batch.index, _kinds(batch), self.grid)
        logits = model(before, warps)
        nats, exact = cross_entropy(logits, after), logits.argmax(dim=-1) == after
        naive = warp(before[:, None].float(), warps, self.grid, "nearest")[:, 0].long() == after
        tokens = torch.stack([nats, exact.float(), naive.float(), torch.ones_like(nats)], dim=1)
        return tokens.mean(dim=(2, 3))

    def load_init(self, model: nn.Module, weights: Mapping[str, Tensor]) -> InitReport:
        """Go on from another TokenAdapt of the same size."""
        if not isinstance(model, PairModel):
            raise TypeError(f"expected the model of this task, got {type(model).__name__}")
        try:
            model.load_state_dict(dict(weights))
        except RuntimeError as error:
            raise TrainingError(
                "only a TokenAdapt of the same model settings and codes can start another"
            ) from error
        return InitReport(loaded=sorted(weights))

    def origin(self) -> dict[str, str]:
        """Size, grid and tokenizer, for those who use the weights."""
        codes, model = self.facts.codes, self.config.model
        if codes is None:
            return {}
        sizes = None if model == "tokenizer" else model
        made_by = MadeBy(name=codes.tokenizer["name"], weights=codes.tokenizer["weights"])
        return AdapterOrigin(sizes=sizes, grid=self.grid, tokenizer=made_by).as_metadata()

    def layer_of(self, parameter: str) -> int:
        """Stem, the two halves, head."""
        return layer_of(parameter.removeprefix("adapter."))


def share_of_errors(logits: Tensor, after: Tensor) -> Tensor:
    """1 - p of each token: what argmax gets wrong, where p is sharp enough to be nearly 0 or 1.

    Cross-entropy asks for probabilities. Where an id is uncertain the mean of the candidates serves
    them best, and that is seldom one of them: exact ids became fewer while nats fell (docs/log.md).
    This loss is generalised cross-entropy with q = 1 (Zhang and Sabuncu 2018, arXiv 1805.07836,
    equation 6), of logits `_SHARPER` times as large.

    Args:
        logits: float [B,h,w,K].
        after: int64 [B,h,w].

    Returns:
        Float32 [B,h,w].
    """
    return -torch.expm1(-cross_entropy(_SHARPER * logits, after))


def _start_of(codes: Codes, weights: str | None) -> TunedTokenizer:
    """The tokenizer that made the pairs, as the adapter that training starts from."""
    from tokenstore.tokenizers import load_tokenizer
    from tokenstore.tokenizers.pocket import Pocket

    name = codes.tokenizer["name"]
    tokenizer = load_tokenizer(name, weights)
    if not isinstance(tokenizer, Pocket):
        raise TrainingError(
            f"model=tokenizer tunes the halves of pocket, and these pairs are of {name}. Give the "
            "sizes of the published halves: model={width: 384, heads: 6}."
        )
    tokenizer.check_made("the store of pairs", codes.tokenizer)
    return TunedTokenizer.start(tokenizer.network, codes.ids)


def _kinds(batch: TokenBatch) -> Tensor:
    if batch.labels is None:
        raise TrainingError("a store of pairs has the kinds of its warps as labels; this has none")
    return batch.labels.clamp(max=len(KINDS) - 1)


PLUGIN = TokenAdaptation
