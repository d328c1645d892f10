"""A task for tests of the loop: the mean of rank embeddings, through dropout, to classes.

It is found by name through an entry point, as a plugin of another package would be.
"""

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from seit_train.config import RunConfig
from seit_train.distributed import sum_over_processes
from seit_train.tasks.base import InitReport, StepResult, Task


class ToyConfig(RunConfig):
    """`poison`: a sample whose loss is not finite; `still`: nothing is drawn at random."""

    poison: int | None = None
    still: bool = False


class ToyModel(nn.Module):
    def __init__(self, vocabulary_size: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary_size, 8)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, classes)

    def forward(self, ranks):
        return self.head(self.norm(self.dropout(self.embed(ranks).mean(dim=(1, 2)))))


class ToyTask(Task):
    name = "toy"
    Config = ToyConfig
    best_metric = "val_top1"
    higher_is_better = True

    def build_model(self):
        dropout = 0.0 if self.config.still else 0.1
        return ToyModel(self.facts.vocabulary_size, len(self.facts.classes), dropout)

    def loss(self, model, batch, rng):
        noise = torch.rand(batch.labels.shape, generator=rng, device=batch.ranks.device)
        losses = functional.cross_entropy(model(batch.ranks), batch.labels, reduction="none")
        losses = losses * (1 if self.config.still else 0.9 + 0.2 * noise)
        if self.config.poison is not None:
            losses = torch.where(batch.index == self.config.poison, torch.nan, losses)
        return StepResult(losses.mean(), {"noise": noise.mean()})

    def evaluate(self, model, batches):
        sums = torch.zeros(3, dtype=torch.float64)
        for batch in batches:
            logits = model(batch.ranks)
            losses = functional.cross_entropy(logits, batch.labels, reduction="none")
            right = logits.argmax(dim=1) == batch.labels
            for place, figure in enumerate((losses, right, torch.ones_like(losses))):
                sums[place] += figure[batch.valid].double().sum()
        loss, right, count = sum_over_processes(sums).tolist()
        return {"val_loss": loss / count, "val_top1": right / count}

    def load_init(self, model, weights):
        model.load_state_dict(dict(weights))
        return InitReport(loaded=list(weights))

    def layer_of(self, parameter):
        return {"embed": 0, "norm": 1}.get(parameter.partition(".")[0], 2)


PLUGIN = ToyTask


def install(folder: Path) -> None:
    """Make task `toy` known wherever this folder and the repository are on the import path."""
    info = folder / "toy_task-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-task\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[seit_train.tasks]\ntoy = tests.seit_train.toy_task:PLUGIN\n"
    )
