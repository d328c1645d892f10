"""The law of the task: all that the trainer knows of what is being learnt.

A task is made for one configuration and one store. It builds the model, turns a batch of ranks into
a loss, and evaluates. It augments, embeds and masks inside `loss`, on the batch's device, from the
generator it is handed, so that the trainer stays a loop and the data stays ranks. It keeps no state
between steps beyond the model's own; the trainer saves and restores everything.

A file of this folder defines one subclass and names it in the module constant `PLUGIN`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from seit_train.augment.base import Codes, Surroundings
from seit_train.config import RunConfig
from seit_train.data import Batches, TokenBatch, evaluation_loader, training_loader
from seit_train.distributed import World
from seit_train.embed import Channels, Codebook, Metric
from tokenstore.errors import TrainingError


@dataclass(frozen=True)
class MaskFacts:
    """What the masks of a store are.

    Attributes:
        size: rows and columns of every mask.
        classes: names in the order of their numbers.
        ignore: the number of pixels whose class is not known, or None.
    """

    size: tuple[int, int]
    classes: tuple[str, ...]
    ignore: int | None


@dataclass(frozen=True)
class StoreFacts:
    """What a task must know of the store it trains on.

    Attributes:
        vocabulary_size: number of ranks K.
        grid: rows and columns (h, w) of an image's ranks.
        codebook: float32 [K, d] in rank order, or None where the store keeps none.
        classes: class names in label order; empty where the store has no labels.
        counts: int64 [K], how often each rank occurs in the train split.
        codes: what the ranks mean, or None where nobody knows.
        masks: what its masks are, or None where there are none.
        scale: float32 [c], by which the numbers of each channel are multiplied where an image's
            ranks are [c, h, w]; None where they are [h, w].
    """

    vocabulary_size: int
    grid: tuple[int, int]
    codebook: Tensor | None
    classes: tuple[str, ...]
    counts: Tensor
    codes: Codes | None = None
    masks: MaskFacts | None = None
    scale: Tensor | None = None

    @property
    def stride(self) -> int:
        """Pixels of a grid position along a side; 8, as of ViT-VQGAN, where nobody knows."""
        size = None if self.codes is None else self.codes.preprocess.get("size")
        return int(size[0]) // self.grid[0] if size else 8

    @property
    def surroundings(self) -> Surroundings:
        """What augmentations may know of the store."""
        channels = None
        if self.codebook is not None and self.scale is not None:
            channels = Channels(self.codebook, self.scale)
        return Surroundings(self.grid, self.codebook, self.codes, channels)

    @property
    def width(self) -> int:
        """Channels of an embedded grid; 0 where there is nothing to embed with."""
        if self.scale is not None:
            return len(self.scale)
        return 0 if self.codebook is None else self.codebook.shape[1]

    def codes_embedded(self, metric: Metric) -> Codebook | None:
        """The codebook as an embedding; None where there is none, or ranks are numbers."""
        if self.codebook is None or self.scale is not None:
            return None
        return Codebook(self.codebook, metric)


class StepResult(NamedTuple):
    """What one forward pass gives: the loss to descend and scalars to log (detached, 0-d)."""

    loss: Tensor
    scalars: Mapping[str, Tensor]


@dataclass(frozen=True)
class InitReport:
    """What `--init` did, for the log: names of loaded, resized, new and unused parameters."""

    loaded: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


class Task(ABC):
    """One thing to learn from a store; see the law above."""

    name: ClassVar[str]
    Config: ClassVar[type[RunConfig]]
    best_metric: ClassVar[str]
    higher_is_better: ClassVar[bool]
    uses_labels: ClassVar[bool] = True
    reads_ranks: ClassVar[bool] = True  # False: pictures from a folder, see `seit_train.pictures`
    uses_masks: ClassVar[bool] = False
    reads_channels: ClassVar[bool] = False  # whether an image's ranks may be [c, h, w]
    classifies: ClassVar[bool] = False  # whether `logits` says something of each class

    @property
    def fewest_images(self) -> int:
        """Images that a part of a step needs at least: 2 where they are compared or normalised."""
        return 1

    @property
    def uses_classes(self) -> bool:
        """Whether the names of classes, of images or of pixels, mean something to it."""
        return self.uses_labels or self.uses_masks

    def __init__(self, config: RunConfig, facts: StoreFacts) -> None:
        """Keep configuration and store facts; refuse a recipe that does not fit the store.

        Raises:
            TrainingError: e.g. classification on a store without labels, or a stride that does
                not divide the grid.
        """
        if facts.scale is not None and not self.reads_channels:
            raise TrainingError(
                f"{self.name} reads grids of one id a place, and this store's have "
                f"{len(facts.scale)} channels of numbers: classify and segment read them"
            )
        self.config = config
        self.facts = facts

    @abstractmethod
    def build_model(self) -> nn.Module:
        """A freshly initialised model (from torch's current seed), on the CPU."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: TokenBatch, rng: torch.Generator) -> StepResult:
        """Augment a batch, run the model, and give the mean loss over the batch's valid rows.

        `model` may be wrapped (DDP, compiled): call it, do not reach into it. Only draws from
        `rng` (on the batch's device) and from torch's global generator inside dropout are random.
        """

    @abstractmethod
    def evaluate(self, model: nn.Module, batches: Iterable[TokenBatch]) -> dict[str, float]:
        """Metrics named `val_*` over all valid rows of these batches, in evaluation mode.

        Shares are 0..1. Exact over ranks: sums are reduced, never means of means. The model is
        already in eval mode and under `torch.no_grad`.
        """

    def logits(self, model: nn.Module, batch: TokenBatch) -> Tensor:
        """What a task that `classifies` says of whole images, float32 [B,classes]."""
        raise NotImplementedError(f"task {self.name} tells no classes of images")

    @abstractmethod
    def load_init(self, model: nn.Module, weights: Mapping[str, Tensor]) -> InitReport:
        """Start `model` from the weights of another run, which may be of another task.

        Raises:
            TrainingError: nothing fits, or a shape differs where it must not.
        """

    def training_batches(self, split: Any, world: World) -> Batches:
        """Full, shuffled batches of a split, over all processes.

        Raises:
            UsageError: the batch cannot be divided as asked, or is larger than an epoch.
            TrainingError: its parts have too few images for this task.
        """
        loader = training_loader(split, self.config, world, masks=self.uses_masks)
        size, parts = self.config.batch_size, self.config.loop.accumulate
        images = size // (world.size * parts)
        if images < self.fewest_images:
            raise TrainingError(
                f"what is learnt here compares or normalises the images of a part of a batch, and "
                f"batch_size={size} in {world.size} processes x {parts} parts leaves {images} in "
                f"each: it takes {self.fewest_images}. Lower loop.accumulate or raise batch_size."
            )
        return loader

    def evaluation_batches(self, split: Any, world: World) -> Batches:
        """Every image of a split once an epoch, in its order, over all processes together."""
        return evaluation_loader(split, self.config, world, masks=self.uses_masks)

    def after_step(self, model: nn.Module, progress: float) -> None:
        """What a task does to its (unwrapped) model after each step of the optimizer.

        The same on every process; nothing is random here.

        Args:
            model: as `build_model` made it.
            progress: share of the run that is done, 0..1.
        """
        return

    def origin(self) -> dict[str, str]:
        """String facts to keep beside the weights, besides those that every run keeps."""
        return {}

    def layer_of(self, parameter: str) -> int:
        """Depth of a parameter for layer-wise learning-rate decay, 0 = input, growing upwards."""
        raise NotImplementedError(f"task {self.name} has no layer order, so no layer decay")
