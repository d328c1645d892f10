"""Features under augmentation in two dimensions: do views of an image stay together?

As Figure A of SeiT++, by principal components: they keep distances as far as two dimensions can,
and are the same in every report. For every model with a token ViT; features are what its head
reads. Augmentations are the run's own, without those that mix images.
"""

from typing import cast

import numpy as np
import torch
from torch import Tensor

from seit_train.evaluate.trained import Trained
from seit_train.models.vit import TokenViT
from seit_train.report.blocks import Block, Dot, Scatter, Text
from seit_train.report.encoder import augmented, encoder_of, features, policy_of, unmixed
from seit_train.report.material import Material
from seit_train.report.sections.base import Findings, Section

CLASSES = 7  # as many as the page has colours
IMAGES = 56
VIEWS = 8


class Projection(Section):
    """Images and their augmented views as points."""

    title = "Features under augmentation"
    order = 40

    @classmethod
    def serves(cls, trained: Trained) -> bool:
        """Models with a token ViT."""
        return encoder_of(trained) is not None

    @classmethod
    def look(cls, material: Material, sample: int) -> Findings:
        """Encode a few images plainly and augmented several times."""
        numbers, groups, names = _chosen(material, sample)
        plain, views = _encoded(material, numbers)
        flat, share = project(torch.cat([plain[:, None], views], dim=1))
        dots = []
        for place, name in enumerate(material.names(numbers)):
            for view, (x, y) in reversed(list(enumerate(flat[place].tolist()))):
                what = f"{name}, {'augmented' if view else 'plain'}"
                dots.append(Dot(x, y, groups[place], view == 0, what))
        dots.sort(key=lambda dot: dot.main)  # plain images are painted last, on top
        kept = _recognised(plain, views)
        text = (
            f"Large points are {len(numbers)} plain images, small ones {VIEWS} augmented views of "
            "each, by the run's own augmentations without mixing. The two largest principal "
            f"components show {share:.0%} of the variance. In all dimensions, {kept:.0%} of the "
            "views are nearer to their own image than to any other of these."
        )
        blocks: tuple[Block, ...] = Text(text), Scatter(tuple(dots), names)
        return Findings(blocks, {"variance_shown": share, "views_nearest_to_their_image": kept})


def _chosen(material: Material, sample: int) -> tuple[np.ndarray, list[int], tuple[str, ...]]:
    """Sample numbers, the group of each, and names of the groups: a few classes, or none."""
    numbers = material.numbers(sample)
    labels, classes = material.batch(numbers).labels, material.trained.run.store.classes
    if labels is None or not classes:
        few = numbers[np.linspace(0, len(numbers) - 1, min(IMAGES, len(numbers))).astype(int)]
        return few, [0] * len(few), ()
    found = labels.cpu().numpy()
    present = np.unique(found)
    present = present[np.linspace(0, len(present) - 1, min(CLASSES, len(present))).astype(int)]
    each = IMAGES // len(present)
    rows = [numbers[found == label][:each] for label in present]
    groups = [group for group, some in enumerate(rows) for _ in some]
    return np.concatenate(rows), groups, tuple(classes[label] for label in present)


def _encoded(material: Material, numbers: np.ndarray) -> tuple[Tensor, Tensor]:
    """Features of plain images [n,width] and of their views [n,VIEWS,width], on the CPU."""
    trained = material.trained
    encoder, policy = cast(TokenViT, encoder_of(trained)), policy_of(trained)
    drawn, plain, views = unmixed(trained), [], []
    with trained.computing():
        for number, batch in enumerate(material.batches(numbers)):
            plain.append(features(encoder, policy.to(batch.ranks.device).plain(batch.ranks)))
            seeds = range(number * VIEWS, (number + 1) * VIEWS)
            tokens = (augmented(drawn, batch, seed) for seed in seeds)
            views.append(torch.stack([features(encoder, some) for some in tokens], dim=1))
    return torch.cat(plain).cpu(), torch.cat(views).cpu()


def project(points: Tensor) -> tuple[Tensor, float]:
    """[n,views,width] -> [n,views,2] in 0..1, and the share of the variance that is left."""
    flat = points.flatten(0, 1).double()
    flat = flat - flat.mean(dim=0)
    _, values, axes = torch.linalg.svd(flat, full_matrices=False)
    largest = axes.abs().argmax(dim=1, keepdim=True)
    axes = axes * axes.gather(1, largest).sign()  # a principal axis has no sign of its own
    seen = flat @ axes[:2].T
    low, high = seen.amin(dim=0), seen.amax(dim=0)
    span = (high - low).max().clamp(min=1e-12)  # one scale for both axes keeps distances true
    centred = 0.5 + (seen - (low + high) / 2) / span
    share = float(values[:2].square().sum() / values.square().sum().clamp(min=1e-12))
    return centred.view(*points.shape[:2], 2), share


def _recognised(plain: Tensor, views: Tensor) -> float:
    """Share of views whose nearest plain image is their own."""
    nearest = torch.cdist(views.flatten(0, 1), plain).argmin(dim=1)
    own = torch.arange(len(plain)).repeat_interleave(views.shape[1])
    return float((nearest == own).double().mean())


PLUGIN = Projection
