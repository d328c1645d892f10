"""Classification from tokens: SeiT (section 3), and the fine-tuning of SeiT++.

Ranks are embedded with the codebook and augmented there; a ViT with a stem adapter, or a ResNet
with an enlarging stem, predicts the class from the result. After masked token modelling the input
is ranks instead, through the id embedding that was learnt there (`model.embedding: ids`).
"""

import re
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from seit_train.augment.compose import Policy, PolicyEntries
from seit_train.config import RunConfig, Share
from seit_train.data import TokenBatch
from seit_train.embed import Metric
from seit_train.models.probe import LinearProbe
from seit_train.models.resnet import EnlargingStem, ResNetName, TokenResNet
from seit_train.models.resnet import layer_of as resnet_layer_of
from seit_train.models.stem import IdConfig, IdEmbedding, StemAdapter, StemName, count_positions
from seit_train.models.transfer import exchanged_stem, transfer
from seit_train.models.vit import TokenViT, VitConfig, layer_of
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
from tokenstore.errors import TrainingError


class ClassifierConfig(VitConfig):
    """The ViT and what it is fed.

    Attributes:
        backbone: the ViT, or a ResNet in its place: it has sizes and a stem of its own, so that of
            the keys of a ViT it only takes drop_path.
        stem: windows of the first convolution.
        embedding: rows of the codebook, or a learned embedding of the ranks.
        ids: that learned embedding.
    """

    backbone: Literal["vit", ResNetName] = "vit"
    stem: StemName = "conv4x4"
    embedding: Literal["codebook", "ids"] = "codebook"
    ids: IdConfig = IdConfig()


class ClassifyConfig(RunConfig):
    """A run of classification: what every run has, the model and the augmentations.

    Attributes:
        model: the ViT.
        augment: the policy; its default is SeiT's for ImageNet-1k.
        requantise: how augmented vectors become ranks again, where the model takes ranks.
        label_smoothing: share of the target that is spread over all classes.
        probe: linear trains one layer on the frozen features of the weights that `--init` gives.
    """

    model: ClassifierConfig = ClassifierConfig()
    augment: PolicyEntries = (
        {"eda": {}},
        {"random_resized_crop": {}},
        {"emb_noise": {}},
        {"cutmix": {}},
    )
    requantise: Metric = "cosine"
    label_smoothing: Share = 0.1
    probe: Literal["none", "linear"] = "none"


class Classification(Task):
    """Soft cross-entropy of augmented tokens; top-1 and top-5 of centre crops."""

    name = "classify"
    Config = ClassifyConfig
    best_metric = "val_top1"
    higher_is_better = True
    reads_channels = True
    classifies = True
    config: ClassifyConfig

    def __init__(self, config: ClassifyConfig, facts: StoreFacts) -> None:
        super().__init__(config, facts)
        if not facts.classes:
            raise TrainingError(
                "classification needs labels, and this store has none. Build it from a folder of "
                "class folders."
            )
        refuse_single_class(facts.classes)
        embed = facts.codes_embedded(config.requantise)
        output: Literal["ranks", "grid"] = "ranks" if config.model.embedding == "ids" else "grid"
        self.policy = Policy(config.augment, facts.surroundings, embed, output)
        if config.model.backbone == "vit":
            count_positions(config.model.stem, self.policy.size)  # refuses what does not fit

    @property
    def fewest_images(self) -> int:
        """Two for a probe, whose features are normalised over a batch."""
        return 2 if self.config.probe == "linear" else 1

    def build_model(self) -> nn.Module:
        """A backbone for the crops that the policy makes, one output a class."""
        classes = len(self.facts.classes)
        if self.config.probe == "linear":
            backbone = self._make_backbone(0)
            return LinearProbe(backbone, backbone.num_features, classes)
        return self._make_backbone(classes)

    def _make_backbone(self, classes: int) -> TokenViT | TokenResNet:
        model, facts = self.config.model, self.facts
        source: int | IdEmbedding
        if model.embedding == "ids":
            source = IdEmbedding(facts.vocabulary_size, model.ids, facts.codebook)
        else:
            source = facts.width
        if model.backbone != "vit":
            enlarging = EnlargingStem(source, facts.stride, model.backbone)
            return TokenResNet(model.backbone, enlarging, classes, model.drop_path)
        stem = StemAdapter(model.stem, model.width, source)
        return TokenViT(stem, self.policy.size, model, classes=classes)

    def loss(self, model: nn.Module, batch: TokenBatch, rng: torch.Generator) -> StepResult:
        """Mean cross-entropy with smoothed and, after mixing, soft targets."""
        targets = smooth_targets(
            labels_of(batch), len(self.facts.classes), self.config.label_smoothing
        )
        view = self.policy.to(batch.ranks.device)(batch.ranks, targets, rng)
        targets = view.targets if view.targets is not None else targets
        return StepResult(soft_loss(model(view.tokens), targets, batch.valid), {})

    def evaluate(self, model: nn.Module, batches: Iterable[TokenBatch]) -> dict[str, float]:
        """Loss, top-1 and top-5 of centre crops; see `seit_train.scoring.hits`."""
        device = next(model.parameters()).device
        scored = (
            Scored(self.logits(model, batch), labels_of(batch), batch.valid) for batch in batches
        )
        return hits(scored, device, tasks_in(self.config, len(self.facts.classes)))

    def logits(self, model: nn.Module, batch: TokenBatch) -> Tensor:
        """What the model says of plain centre crops, float32 [B,classes]."""
        plain = self.policy.to(batch.ranks.device).plain(batch.ranks)
        logits: Tensor = model(plain).float()
        return logits

    def load_init(self, model: nn.Module, weights: Mapping[str, Tensor]) -> InitReport:
        """Start from the encoder of a masked run, from another classifier, or from a published ViT.

        A head of other classes stays fresh, and so does the stem where it was fed something else:
        pixels, other vectors, or ids instead of the codebook.
        """
        model = model.backbone if isinstance(model, LinearProbe) else model
        if not isinstance(model, TokenViT | TokenResNet):
            raise TypeError(f"expected the model of this task, got {type(model).__name__}")
        head, stem = ("head", "patch_embed") if isinstance(model, TokenViT) else ("fc", "conv1")
        weights = {re.sub(r"^(encoder|backbone)\.", "", n): w for n, w in weights.items()}
        fresh = exchanged_stem(model.state_dict(), weights, f"{stem}.")
        outputs = weights.get(f"{head}.weight")
        if outputs is not None and len(outputs) != len(self.facts.classes):
            fresh += (f"{head}.",)
        positions = model.positions if isinstance(model, TokenViT) else self.policy.size
        return InitReport(*transfer(model, weights, positions, fresh=fresh))

    def layer_of(self, parameter: str) -> int:
        """Stem and positions, blocks, head, as timm groups them."""
        model, name = self.config.model, parameter.removeprefix("backbone.")
        if model.backbone != "vit":
            return resnet_layer_of(name, model.backbone)
        return layer_of(name, model.depth)


PLUGIN = Classification
