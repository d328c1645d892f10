"""Segmentation from tokens: a class for every pixel of the stored mask (SeiT++ section 4.2).

Ranks are embedded with the codebook, or by the id embedding learnt in masked token modelling, and a
segmenter (see `models/segmenter.py`) predicts at the mask's own size. Augmentations move masks
along with the grid; those that mix images are refused. Metrics are torchmetrics', over whole
images: a model that learnt on crops judges overlapping windows and averages them.
"""

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.functional.classification import multiclass_confusion_matrix

from seit_train.augment.compose import Policy, PolicyEntries
from seit_train.config import RunConfig
from seit_train.data import TokenBatch
from seit_train.distributed import sum_over_processes
from seit_train.embed import Metric
from seit_train.models.segmenter import ConvSegmenter, UperNet
from seit_train.models.stem import IdConfig, IdEmbedding, StemAdapter, StemName, count_positions
from seit_train.models.transfer import transfer
from seit_train.models.vit import TokenViT, VitConfig, layer_of
from seit_train.tasks.base import InitReport, MaskFacts, StepResult, StoreFacts, Task
from tokenstore.errors import TrainingError

UNKNOWN = -1  # the class of a pixel whose class nobody knows


class SegmenterConfig(VitConfig):
    """The ViT, what it is fed, and what makes pixels of it.

    Attributes:
        stem: windows of the first convolution.
        embedding: rows of the codebook, or a learned embedding of the ranks.
        ids: that learned embedding.
        head: UPerNet as published, or convolutions and a pixel shuffle, for small grids.
    """

    stem: StemName = "conv2x2"
    embedding: Literal["codebook", "ids"] = "codebook"
    ids: IdConfig = IdConfig()
    head: Literal["upernet", "convolutions"] = "upernet"


class SegmentConfig(RunConfig):
    """A run of segmentation: what every run has, the model and the augmentations.

    Attributes:
        model: ViT and head.
        augment: the policy; nothing that mixes images, no resized crops of tokens.
        requantise: how augmented vectors become ranks again, where the model takes ranks.
        auxiliary: weight of the auxiliary head's loss (UPerNet; mmsegmentation has 0.4).
    """

    model: SegmenterConfig = SegmenterConfig()
    augment: PolicyEntries = ()
    requantise: Metric = "cosine"
    auxiliary: Annotated[float, Field(ge=0)] = 0.4


class Segmentation(Task):
    """Cross-entropy of every known pixel; mIoU, accuracy and the IoU of every class."""

    name = "segment"
    Config = SegmentConfig
    best_metric = "val_miou"
    higher_is_better = True
    uses_labels = False
    uses_masks = True
    reads_channels = True
    config: SegmentConfig

    def __init__(self, config: SegmentConfig, facts: StoreFacts) -> None:
        super().__init__(config, facts)
        if facts.masks is None:
            raise TrainingError(
                "segmentation needs masks, and this store has none. Build it from a folder with "
                "images/ and masks/, or with --masks DIR."
            )
        self.masks: MaskFacts = facts.masks
        self.scale = _scale(self.masks.size, facts.grid)
        embed = facts.codes_embedded(config.requantise)
        output: Literal["ranks", "grid"] = "ranks" if config.model.embedding == "ids" else "grid"
        self.policy = Policy(config.augment, facts.surroundings, embed, output)
        self.policy.refuse_for_masks()
        count_positions(config.model.stem, self.policy.size)  # refuses what does not fit

    def build_model(self) -> nn.Module:
        """A segmenter for the crops that the policy makes."""
        model, facts, size = self.config.model, self.facts, self.policy.size
        source: int | IdEmbedding
        if model.embedding == "ids":
            source = IdEmbedding(facts.vocabulary_size, model.ids, facts.codebook)
        else:
            source = facts.width
        encoder = TokenViT(StemAdapter(model.stem, model.width, source), size, model)
        classes = len(self.masks.classes)
        if model.head == "convolutions":
            return ConvSegmenter(encoder, classes, self.scale)
        return UperNet(encoder, classes, (size[0] * self.scale, size[1] * self.scale))

    def loss(self, model: nn.Module, batch: TokenBatch, rng: torch.Generator) -> StepResult:
        """Mean cross-entropy over the pixels whose class is known."""
        policy = self.policy.to(batch.ranks.device)
        view = policy(batch.ranks, None, rng, self._targets(batch))
        logits, auxiliary = model(view.tokens)
        masks = cast(Tensor, view.masks)
        loss = _cross_entropy(logits, masks)
        if auxiliary is None or not self.config.auxiliary:
            return StepResult(loss, {})
        extra = _cross_entropy(auxiliary, masks)
        scalars = {"main_loss": loss.detach(), "auxiliary_loss": extra.detach()}
        return StepResult(loss + self.config.auxiliary * extra, scalars)

    def evaluate(self, model: nn.Module, batches: Iterable[TokenBatch]) -> dict[str, float]:
        """`val_miou`, `val_pixel_accuracy`, `val_loss`, and `val_iou/CLASS` of every class.

        All over the pixels whose class is known. A class that is neither there nor predicted has no
        IoU and no part in the mean.
        """
        classes = len(self.masks.classes)
        device = next(model.parameters()).device
        confusion = torch.zeros(classes, classes, dtype=torch.float64, device=device)
        sums = torch.zeros(2, dtype=torch.float64, device=device)
        for batch in batches:
            logits = self.predict(model, batch.ranks)[batch.valid]
            targets = self._targets(batch)[batch.valid]
            losses = functional.cross_entropy(
                logits, targets, ignore_index=UNKNOWN, reduction="sum"
            )
            sums += torch.stack([losses.double(), (targets != UNKNOWN).sum().double()])
            confusion += confusion_matrix(logits.argmax(dim=1), targets, classes)
        total, pixels = sum_over_processes(sums).tolist()
        confusion = sum_over_processes(confusion)
        iou = class_iou(confusion)
        named = zip(self.masks.classes, iou.tolist(), strict=True)
        return {
            "val_loss": total / max(1, pixels),
            "val_miou": float(iou.nanmean()),
            "val_pixel_accuracy": float(confusion.trace() / confusion.sum()),
            **{f"val_iou/{name}": share for name, share in named if not math.isnan(share)},
        }

    def predict(self, model: nn.Module, ranks: Tensor) -> Tensor:
        """Logits of whole images: int64 [B,*grid] -> float32 [B,classes,H,W].

        Windows of the size that the model learnt on, evenly spaced over the grid, as few as cover
        it; where they overlap, their logits are averaged.
        """
        policy, scale, size = self.policy.to(ranks.device), self.scale, self.policy.size
        rows, columns = ranks.shape[-2:]
        shape = ranks.shape[0], len(self.masks.classes), rows * scale, columns * scale
        logits, seen = ranks.new_zeros(shape, dtype=torch.float32), ranks.new_zeros(shape[2:])
        starts = itertools.product(_starts(rows, size[0]), _starts(columns, size[1]))
        for top, left in starts:
            window = ranks[..., top : top + size[0], left : left + size[1]]
            down = slice(top * scale, (top + size[0]) * scale)
            across = slice(left * scale, (left + size[1]) * scale)
            logits[..., down, across] += model(policy.plain(window)).classes.float()
            seen[down, across] += 1
        return logits / seen

    def load_init(self, model: nn.Module, weights: Mapping[str, Tensor]) -> InitReport:
        """Start the encoder from a masked run or a classifier, or all of it from another segmenter.

        The stem stays fresh where one of the two runs embeds by codebook and the other by ids.
        """
        if not isinstance(model, UperNet | ConvSegmenter):
            raise TypeError(f"expected the model of this task, got {type(model).__name__}")
        if not any(name.startswith("encoder.") for name in weights):
            weights = {f"encoder.{name}": weight for name, weight in weights.items()}
        fresh: tuple[str, ...] = ()
        if len(weights.get("head.weight", ())) != len(model.head.weight):
            fresh += ("head.", "auxiliary_head.")
        has_ids = "encoder.patch_embed.ids.table.weight" in weights
        if has_ids != (self.config.model.embedding == "ids"):
            fresh += ("encoder.patch_embed.",)
        return InitReport(*transfer(model, weights, model.encoder.positions, fresh=fresh))

    def layer_of(self, parameter: str) -> int:
        """The encoder's layers, and everything of the head after them."""
        return layer_of(parameter, self.config.model.depth)

    def _targets(self, batch: TokenBatch) -> Tensor:
        """Int64 [B,H,W], -1 where the class is not known."""
        if batch.masks is None:
            raise TrainingError("a split without masks cannot be segmented; choose another split")
        masks = batch.masks.long()
        return (
            masks if self.masks.ignore is None else masks.where(masks != self.masks.ignore, UNKNOWN)
        )


def confusion_matrix(guess: Tensor, targets: Tensor, classes: int) -> Tensor:
    """How many known pixels of each class were guessed as each: int64 [classes,classes].

    Rows are the truth. Both arguments are int64 [n,H,W]; targets of -1 do not count.
    """
    counts: Tensor = multiclass_confusion_matrix(guess, targets, classes, ignore_index=UNKNOWN)
    return counts


def class_iou(confusion: Tensor) -> Tensor:
    """Intersection over union of each class, float64; nan where it is neither there nor guessed."""
    right = confusion.diag().double()
    return right / (confusion.sum(dim=0) + confusion.sum(dim=1) - right)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the known pixels; zero where a whole batch knows none."""
    known = (targets != UNKNOWN).sum().clamp(min=1)
    total = functional.cross_entropy(logits.float(), targets, ignore_index=UNKNOWN, reduction="sum")
    return total / known


def _scale(size: tuple[int, int], grid: tuple[int, int]) -> int:
    """Pixels of a side of a grid's place: ((128, 128), (16, 16)) -> 8.

    Raises:
        TrainingError: the mask is no whole multiple of the grid.
    """
    scale = size[0] // grid[0]
    if scale < 1 or (grid[0] * scale, grid[1] * scale) != size:
        raise TrainingError(
            f"masks of {size[0]}x{size[1]} are no whole multiple of grids of {grid[0]}x{grid[1]}"
        )
    return scale


def _starts(side: int, window: int) -> list[int]:
    """Where windows begin that cover a side, evenly spaced: (16, 14) -> [0, 2]."""
    count = math.ceil(side / window)
    return [round(number * (side - window) / max(1, count - 1)) for number in range(count)]


PLUGIN = Segmentation
