"""What a masked model guesses: original, what it was shown, and what it put under the masks.

For every task that has `complete`. Masks are those of evaluation, one fixed mask an image.
"""

from typing import Protocol, cast, runtime_checkable

import numpy as np
from torch import Tensor, nn

from seit_train.augment.crop import center_crop
from seit_train.data import TokenBatch
from seit_train.evaluate.trained import Trained
from seit_train.methods.base import Completion
from seit_train.report.blocks import Figure, Frame, Gallery, Text
from seit_train.report.material import Material, Pictures
from seit_train.report.sections.base import Findings, Section
from tokenstore.report.gallery import data_uri

SHOWN = 9
_GREY = 128


@runtime_checkable
class Completes(Protocol):
    """A task that guesses what lies under masks."""

    def complete(self, model: nn.Module, batch: TokenBatch) -> Completion | None:
        """Of centre crops of a batch; None where the method guesses none."""


class Completions(Section):
    """Original | masked | predicted."""

    title = "Masked predictions"
    order = 20

    @classmethod
    def serves(cls, trained: Trained) -> bool:
        """Tasks that complete grids."""
        return isinstance(trained.task, Completes)

    @classmethod
    def look(cls, material: Material, sample: int) -> Findings:
        """Complete some images, spread evenly over the split."""
        trained = material.trained
        task = cast(Completes, trained.task)
        numbers = material.numbers(min(SHOWN, sample))
        batch = material.batch(numbers)
        with trained.computing():
            done = task.complete(trained.model, batch)
        if done is None:
            return Findings((Text("This method guesses no ranks, so there is nothing to show."),))
        size = done.ranks.shape[1], done.ranks.shape[2]
        filled = batch.ranks.clone()  # what lies around a crop is decoded too, then cut off
        center_crop(filled, size).copy_(done.guessed)
        pictures = [material.paint(whole, size) for whole in (batch.ranks, filled)]
        covered = cover(pictures[0], done.masked.cpu().numpy())
        exact = _shares(done.guessed == done.ranks, done.masked)
        ratios = done.masked.float().mean(dim=(1, 2)).tolist()
        figures = []
        for place, name in enumerate(material.names(numbers)):
            columns = {"original": pictures[0], "masked": covered, "predicted": pictures[1]}
            frames = tuple(Frame(data_uri(some[place]), what) for what, some in columns.items())
            note = f"{ratios[place]:.0%} masked, {exact[place]:.0%} of it right"
            figures.append(Figure(frames, name, note))
        text = (
            "Originals as their tokens decode, what the model was shown, and its likeliest guess "
            "at each masked place, all decoded together. Each place is guessed on its own, so "
            "guesses need not agree with each other. A wrong code may look like the right one."
        )
        facts = {"masked": ratios, "right": exact}
        return Findings((Text(text), Gallery(tuple(figures))), facts)


def cover(pictures: Pictures, masked: np.ndarray) -> Pictures:
    """Pictures with grey where bool [B,h,w] is True."""
    rows, columns = (pictures.shape[axis] // masked.shape[axis] for axis in (1, 2))
    hidden = masked.repeat(rows, axis=1).repeat(columns, axis=2)[..., None]
    covered: Pictures = np.where(hidden, np.uint8(_GREY), pictures)
    return covered


def _shares(right: Tensor, masked: Tensor) -> list[float]:
    """Of the masked places of each image, the share that is right."""
    hits = (right & masked).sum(dim=(1, 2)) / masked.sum(dim=(1, 2)).clamp(min=1)
    return [float(hit) for hit in hits]


PLUGIN = Completions
