"""Classification from pixels: the last stage of SeiT's Table 3, after training on tokens.

The same ViT, loop and classes; pictures are cut into 16x16 patches by a stem that is new, since no
run on tokens has one. Pixels come from a folder of images and are augmented by what SeiT names for
this stage: RandAugment 9/0.5, CutMix and Mixup.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2

from seit_train.augment.base import Surroundings, View
from seit_train.augment.compose import PolicyEntries, make_augmentation
from seit_train.config import Positive, RunConfig, Share
from seit_train.data import Batches, TokenBatch, whole_batches
from seit_train.distributed import World
from seit_train.models.resnet import ResNetName, TokenResNet
from seit_train.models.resnet import layer_of as resnet_layer_of
from seit_train.models.stem import StemAdapter, count_positions
from seit_train.models.transfer import exchanged_stem, transfer
from seit_train.models.vit import TokenViT, VitConfig, layer_of
from seit_train.pictures import Feed, PictureLoader, PictureSplit, Transform
from seit_train.scoring import (
    Scored,
    hits,
    labels_of,
    refuse_single_class,
    smooth_targets,
    soft_loss,
    tasks_in,
)
from seit_train.tasks.base import InitReport, StepResult, StoreFacts, Task
from tokenstore.errors import TrainingError, UsageError
from tokenstore.order import Unshuffled

_CROP = 0.875  # share of a picture's side that evaluation looks at: 224 of 256
_HARDEST = 9.99  # of RandAugment: at 10, posterize keeps 0 bits, which Pillow refuses
_MEAN_COLOUR = tuple(round(255 * value) for value in IMAGENET_DEFAULT_MEAN)


class PictureModel(VitConfig):
    """The ViT, or a ResNet in its place, which of the keys of a ViT only takes drop_path."""

    backbone: Literal["vit", ResNetName] = "vit"


class PixelsConfig(RunConfig):
    """A run on pictures: what every run has, the model, and how pictures are augmented.

    Attributes:
        model: the ViT, of 16x16 patches, or a ResNet.
        image_size: side of the square that the model sees, in pixels.
        scale: share of a picture that a training crop covers, from and to.
        rand_augment: magnitude and spread in timm's words; null means none.
        mixing: what is done to batches of crops, as an `augment` list.
        label_smoothing: share of the target that is spread over all classes.
        workers: processes that decode pictures, for each process that trains.
    """

    model: PictureModel = PictureModel()
    image_size: Positive = 224
    scale: tuple[Share, Share] = (0.08, 1.0)
    rand_augment: str | None = "rand-m9-mstd0.5-inc1"
    mixing: PolicyEntries = (
        {"one_of": {"p": [0.5, 0.5], "of": [{"mixup": {"alpha": 0.8}}, {"cutmix": {}}]}},
    )
    label_smoothing: Share = 0.1
    workers: Annotated[int, Field(ge=0)] = 4


class Pixels(Task):
    """Soft cross-entropy of augmented pictures; top-1 and top-5 of centre crops."""

    name = "pixels"
    Config = PixelsConfig
    best_metric = "val_top1"
    higher_is_better = True
    reads_ranks = False
    classifies = True
    config: PixelsConfig

    def __init__(self, config: PixelsConfig, facts: StoreFacts) -> None:
        super().__init__(config, facts)
        if not facts.classes:
            raise TrainingError(
                "classification needs labels, and these images have none. Sort them into a folder "
                "for each class."
            )
        refuse_single_class(facts.classes)
        self.size = (config.image_size, config.image_size)
        if config.model.backbone == "vit":
            count_positions("patch16", self.size)  # refuses what patches do not cover
        around = Surroundings(self.size, None)
        self.mixing = nn.ModuleList(make_augmentation(entry, around) for entry in config.mixing)
        self.mean = 255 * torch.tensor(IMAGENET_DEFAULT_MEAN)[:, None, None]
        self.deviation = 255 * torch.tensor(IMAGENET_DEFAULT_STD)[:, None, None]

    def build_model(self) -> TokenViT | TokenResNet:
        """A backbone for pixels, one output a class."""
        model, classes = self.config.model, len(self.facts.classes)
        if model.backbone != "vit":
            return TokenResNet(model.backbone, None, classes, model.drop_path)
        stem = StemAdapter("patch16", model.width, 3)
        return TokenViT(stem, self.size, model, classes=classes)

    def training_batches(self, split: PictureSplit, world: World) -> Batches:
        """Augmented crops in a `training_order`.

        Raises:
            UsageError: the batch cannot be divided as asked, or the order is one for stores alone.
        """
        config = self.config
        if config.data.shuffle == "shards" or config.data.cache is not None:
            raise UsageError("data.shuffle=shards and data.cache are for stores, not for pictures")
        order = whole_batches(split, config, world)
        size, seed = config.batch_size, config.seed
        feed = Feed(training_transform(config), order, size, seed, True, config.workers)
        return PictureLoader(split, feed, world)

    def evaluation_batches(self, split: PictureSplit, world: World) -> Batches:
        """The middle of every picture once an epoch, as many at a time as a part of a step has."""
        config, order = self.config, Unshuffled(len(split))
        size = max(world.size, config.batch_size // config.loop.accumulate)
        transform = evaluation_transform(config)
        feed = Feed(transform, order, size, config.seed, False, config.workers)
        return PictureLoader(split, feed, world)

    def loss(self, model: nn.Module, batch: TokenBatch, rng: torch.Generator) -> StepResult:
        """Mean cross-entropy with smoothed and mixed targets."""
        classes = len(self.facts.classes)
        targets = smooth_targets(labels_of(batch), classes, self.config.label_smoothing)
        view = View(self._normalised(batch.ranks), targets)
        with torch.autocast(batch.ranks.device.type, enabled=False):
            for mix in self.mixing:
                view = mix(view, rng)
        targets = targets if view.targets is None else view.targets
        return StepResult(soft_loss(model(view.tokens), targets, batch.valid), {})

    def evaluate(self, model: nn.Module, batches: Iterable[TokenBatch]) -> dict[str, float]:
        """Loss, top-1 and top-5 of centre crops; see `seit_train.scoring.hits`."""
        scored = (
            Scored(self.logits(model, batch), labels_of(batch), batch.valid) for batch in batches
        )
        tasks = tasks_in(self.config, len(self.facts.classes))
        return hits(scored, next(model.parameters()).device, tasks)

    def logits(self, model: nn.Module, batch: TokenBatch) -> Tensor:
        """What the model says of pictures of its size, float32 [B,classes]."""
        logits: Tensor = model(self._normalised(batch.ranks)).float()
        return logits

    def load_init(self, model: nn.Module, weights: Mapping[str, Tensor]) -> InitReport:
        """Start from a run on tokens, on pixels, or from a published ViT.

        The stem stays fresh unless it is one for pixels, and so does a head of other classes.
        """
        if not isinstance(model, TokenViT | TokenResNet):
            raise TypeError(f"expected the model of this task, got {type(model).__name__}")
        head, stem = ("head", "patch_embed") if isinstance(model, TokenViT) else ("fc", "conv1")
        weights = {name.removeprefix("encoder."): weight for name, weight in weights.items()}
        fresh = exchanged_stem(model.state_dict(), weights, f"{stem}.")
        outputs = weights.get(f"{head}.weight")
        if outputs is not None and len(outputs) != len(self.facts.classes):
            fresh += (f"{head}.",)
        positions = model.positions if isinstance(model, TokenViT) else self.size
        return InitReport(*transfer(model, weights, positions, fresh=fresh))

    def layer_of(self, parameter: str) -> int:
        """Stem and positions, blocks, head, as timm groups them."""
        model = self.config.model
        if model.backbone != "vit":
            return resnet_layer_of(parameter, model.backbone)
        return layer_of(parameter, model.depth)

    def _normalised(self, images: Tensor) -> Tensor:
        """Uint8 [B,3,H,W] -> float32, of mean 0 and deviation 1 over ImageNet."""
        mean, deviation = self.mean.to(images.device), self.deviation.to(images.device)
        return (images.float() - mean) / deviation


def training_transform(config: PixelsConfig) -> Transform:
    """A random crop, mirrored or not, and RandAugment: a PIL picture -> uint8 [3,H,W]."""
    steps: list[Transform | nn.Module] = [
        v2.RandomResizedCrop(
            config.image_size, scale=config.scale, interpolation=InterpolationMode.BICUBIC
        ),
        v2.RandomHorizontalFlip(),
    ]
    if config.rand_augment is not None:
        # As DeiT's: shifts up to 45% of the side, the mean colour where nothing is.
        hints = {
            "translate_const": int(0.45 * config.image_size),
            "img_mean": _MEAN_COLOUR,
            "magnitude_max": _HARDEST,
        }
        steps.append(rand_augment_transform(config.rand_augment, hints))
    transform: Transform = v2.Compose([*steps, v2.PILToTensor()])
    return transform


def evaluation_transform(config: PixelsConfig) -> Transform:
    """The middle of a picture that was shrunk to 8/7 of the side: uint8 [3,H,W]."""
    side = round(config.image_size / _CROP)
    transform: Transform = v2.Compose(
        [
            v2.Resize(side, interpolation=InterpolationMode.BICUBIC),
            v2.CenterCrop(config.image_size),
            v2.PILToTensor(),
        ]
    )
    return transform


PLUGIN = Pixels
