"""Classification from tokens: SeiT (section 3), and the fine-tuning of SeiT++.

Ranks are embedded with the codebook and augmented there; a ViT with a stem adapter predicts the
class from the result. After masked token modelling the input is ranks instead, through the id
embedding that was learnt there (`model.embedding: ids`).
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from seit_train.augment.compose import Policy, PolicyEntries
from seit_train.config import RunConfig, Share
from seit_train.data import TokenBatch
from seit_train.distributed import sum_over_processes
from seit_train.embed import Codebook, Metric
from seit_train.models.stem import IdConfig, IdEmbedding, StemAdapter, StemName, count_positions
from seit_train.models.transfer import transfer
from seit_train.models.vit import TokenViT, VitConfig, layer_of
from seit_train.tasks.base import InitReport, StepResult, StoreFacts, Task
from tokenstore.errors import TrainingError


class ClassifierConfig(VitConfig):
    """The ViT and what it is fed.

    Attributes:
        stem: windows of the first convolution.
        embedding: rows of the codebook, or a learned embedding of the ranks.
        ids: that learned embedding.
    """

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


class Classification(Task):
    """Soft cross-entropy of augmented tokens; top-1 and top-5 of centre crops."""

    name = "classify"
    Config = ClassifyConfig
    best_metric = "val_top1"
    higher_is_better = True
    config: ClassifyConfig

    def __init__(self, config: ClassifyConfig, facts: StoreFacts) -> None:
        super().__init__(config, facts)
        if not facts.classes:
            raise TrainingError(
                "classification needs labels, and this store has none. Build it from a folder of "
                "class folders."
            )
        codebook = facts.codebook
        embed = None if codebook is None else Codebook(codebook, config.requantise)
        output: Literal["ranks", "grid"] = "ranks" if config.model.embedding == "ids" else "grid"
        self.policy = Policy(config.augment, facts.surroundings, embed, output)
        count_positions(config.model.stem, self.policy.size)  # refuses what does not fit

    def build_model(self) -> TokenViT:
        """A ViT for the crops that the policy makes, one output a class."""
        model, facts = self.config.model, self.facts
        source: int | IdEmbedding
        if model.embedding == "ids":
            source = IdEmbedding(facts.vocabulary_size, model.ids, facts.codebook)
        else:
            source = 0 if facts.codebook is None else facts.codebook.shape[1]
        stem = StemAdapter(model.stem, model.width, source)
        return TokenViT(stem, self.policy.size, model, classes=len(facts.classes))

    def loss(self, model: nn.Module, batch: TokenBatch, rng: torch.Generator) -> StepResult:
        """Mean cross-entropy with smoothed and, after mixing, soft targets."""
        targets = smooth_targets(
            _labels(batch), len(self.facts.classes), self.config.label_smoothing
        )
        view = self.policy.to(batch.ranks.device)(batch.ranks, targets, rng)
        logits = model(view.tokens).float()
        losses = functional.cross_entropy(logits, view.targets, reduction="none")
        valid = batch.valid.float()
        return StepResult((losses * valid).sum() / valid.sum().clamp(min=1), {})

    def evaluate(self, model: nn.Module, batches: Iterable[TokenBatch]) -> dict[str, float]:
        """`val_loss` against the hard labels, and the shares of images with the label in the top.

        Where there are fewer than five classes, `val_top5` looks at all of them.
        """
        device = next(model.parameters()).device
        sums = torch.zeros(4, dtype=torch.float64, device=device)
        for batch in batches:
            logits, labels = self.logits(model, batch), _labels(batch)
            losses = functional.cross_entropy(logits, labels, reduction="none")
            best = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
            figures = [losses, best[:, 0], best.any(dim=1), torch.ones_like(losses)]
            sums += torch.stack([figure[batch.valid].double().sum() for figure in figures])
        loss, top1, top5, images = sum_over_processes(sums).tolist()
        return {"val_loss": loss / images, "val_top1": top1 / images, "val_top5": top5 / images}

    def logits(self, model: nn.Module, batch: TokenBatch) -> Tensor:
        """What the model says of plain centre crops, float32 [B,classes]."""
        plain = self.policy.to(batch.ranks.device).plain(batch.ranks)
        logits: Tensor = model(plain).float()
        return logits

    def load_init(self, model: nn.Module, weights: Mapping[str, Tensor]) -> InitReport:
        """Start from the encoder of a masked run, or from another classifier.

        A head of other classes stays fresh, and so does the stem where one of the two runs embeds
        by codebook and the other by ids: equal shapes would not make their weights the same.
        """
        if not isinstance(model, TokenViT):
            raise TypeError(f"expected the model of this task, got {type(model).__name__}")
        weights = {name.removeprefix("encoder."): weight for name, weight in weights.items()}
        fresh: tuple[str, ...] = ()
        if "head.weight" in weights and len(weights["head.weight"]) != len(self.facts.classes):
            fresh += ("head.",)
        has_ids = "patch_embed.ids.table.weight" in weights
        if has_ids != (self.config.model.embedding == "ids"):
            fresh += ("patch_embed.",)
        return InitReport(*transfer(model, weights, model.positions, fresh=fresh))

    def layer_of(self, parameter: str) -> int:
        """Stem and positions, blocks, head, as timm groups them."""
        return layer_of(parameter, self.config.model.depth)


def smooth_targets(labels: Tensor, classes: int, smoothing: float) -> Tensor:
    """Int64 [B] -> float32 [B,classes]: 1 - smoothing on the label, the rest spread over all."""
    is_label = labels[:, None] == torch.arange(classes, device=labels.device)
    return is_label * (1 - smoothing) + smoothing / classes


def _labels(batch: TokenBatch) -> Tensor:
    if batch.labels is None:
        raise TrainingError("a split without labels cannot be classified; choose another split")
    return batch.labels


PLUGIN = Classification
