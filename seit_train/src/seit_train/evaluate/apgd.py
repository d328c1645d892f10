"""Auto-PGD: projected gradient ascent that finds its own step size, for any differentiable model.

"Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks"
(Croce and Hein, ICML 2020, arXiv 2003.01690), section 3 and Algorithm 1, under the maximum norm,
with the losses CE and DLR (section 4). Every picture has a step size of its own, so that results
do not depend on what stands beside it in a batch. Which model is attacked, and what its gradients
are worth, is not this file's business.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

LossName = Literal["ce", "dlr"]
Model = Callable[[Tensor], Tensor]  # float [n,3,H,W], 0..1 -> logits [n,classes]

_MOMENTUM = 0.75  # alpha: how much of a new point is the gradient's, the rest is inertia
_RHO = 0.75  # share of the steps since the last look that must have raised the loss


@dataclass(frozen=True)
class Apgd:
    """What is asked of the attack.

    Attributes:
        loss: which is raised.
        eps: greatest change of a value, of pictures 0..1.
        steps: gradients; 100 as published.
    """

    loss: LossName
    eps: float
    steps: int


def attack(
    model: Model, images: Tensor, labels: Tensor, asked: Apgd, rng: torch.Generator
) -> Tensor:
    """Pictures near the given ones that the model gets wrong, or else with the highest loss.

    Args:
        model: to be fooled.
        images: float32 [n,3,H,W], 0..1.
        labels: int64 [n], the right answers.
        asked: loss, size and length of the attack.
        rng: draws where it starts; on the CPU, so that devices start alike.

    Returns:
        Float32 [n,3,H,W], no value further than eps from that of `images`.
    """
    if asked.eps == 0:
        return images
    low, high = (images - asked.eps).clamp(min=0), (images + asked.eps).clamp(max=1)
    noise = torch.rand(images.shape, generator=rng).to(images.device) * 2 - 1
    point = _within(images + asked.eps * noise, low, high)
    climb = _Climb(model, labels, asked, point)
    previous, looks = point, checkpoints(asked.steps)
    for step in range(asked.steps):
        ahead = _within(point + climb.size * climb.gradient.sign(), low, high)
        inertia = 1.0 if step == 0 else _MOMENTUM
        new = point + inertia * (ahead - point) + (1 - inertia) * (point - previous)
        previous, point = point, _within(new, low, high)
        climb.look_from(point)
        if step + 1 in looks:
            point = climb.reconsider(point)
    return climb.found


def checkpoints(steps: int) -> list[int]:
    """Steps after which the size is reconsidered: shares 0.22, 0.41, 0.57, ... of all."""
    shares, width = [0.22], 0.22
    while shares[-1] < 1:
        width = max(width - 0.03, 0.06)
        shares.append(shares[-1] + width)
    # Sums of hundredths are not exact, and 57.0000001 steps are 57.
    return sorted({math.ceil(round(share * steps, 6)) for share in shares if share < 1})


class _Climb:
    """What each picture has reached: its best point, its step size, what happened since a look.

    Attributes:
        size: step size of each picture, [n,1,1,1].
        gradient: at the point that was looked from last.
        found: the first point that the model gets wrong, else the one of the highest loss.
    """

    def __init__(self, model: Model, labels: Tensor, asked: Apgd, start: Tensor) -> None:
        self._model, self._labels, self._loss = model, labels, asked.loss
        self.size = torch.full((len(start), 1, 1, 1), 2 * asked.eps, device=start.device)
        losses, self.gradient, wrong = self._evaluate(start)
        self.found, self._is_wrong = start.clone(), wrong
        self._best, self._best_point, self._best_gradient = losses, start.clone(), self.gradient
        self._last, self._rises, self._steps = losses, torch.zeros_like(losses), 0
        self._best_before, self._halved = losses.clone(), torch.zeros_like(wrong)

    def look_from(self, point: Tensor) -> None:
        """Take note of a point."""
        losses, self.gradient, wrong = self._evaluate(point)
        better = losses > self._best
        self._rises += losses > self._last
        self._last, self._steps = losses, self._steps + 1
        self._best = torch.where(better, losses, self._best)
        self._best_point = _choose(better, point, self._best_point)
        self._best_gradient = _choose(better, self.gradient, self._best_gradient)
        # A point that fools the model is kept; until there is one, the best of those that do not.
        self.found = _choose(~self._is_wrong & (wrong | better), point, self.found)
        self._is_wrong = self._is_wrong | wrong

    def reconsider(self, point: Tensor) -> Tensor:
        """Halve the step of pictures that no longer climb, and send them back to their best."""
        few = self._rises < _RHO * self._steps
        stuck = ~self._halved & (self._best_before == self._best)
        halved = few | stuck
        self.size = torch.where(halved[:, None, None, None], self.size / 2, self.size)
        self.gradient = _choose(halved, self._best_gradient, self.gradient)
        self._last = torch.where(halved, self._best, self._last)
        self._halved, self._best_before = halved, self._best.clone()
        self._rises, self._steps = torch.zeros_like(self._rises), 0
        return _choose(halved, self._best_point, point)

    def _evaluate(self, point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Losses [n], their gradient, and which pictures are wrong."""
        with torch.enable_grad():
            point = point.detach().requires_grad_()
            logits = self._model(point)
            losses = _LOSSES[self._loss](logits, self._labels)
            (gradient,) = torch.autograd.grad(losses.sum(), point)
        wrong = logits.argmax(dim=1) != self._labels
        return losses.detach(), gradient, wrong


def difference_of_logits_ratio(logits: Tensor, labels: Tensor) -> Tensor:
    """DLR, float [n]: -(z_y - max of the others) / (z_1st - z_3rd); needs three classes or more."""
    ordered = logits.sort(dim=1, descending=True).values
    right = logits.gather(1, labels[:, None])[:, 0]
    is_first = logits.argmax(dim=1) == labels
    others = torch.where(is_first, ordered[:, 1], ordered[:, 0])
    return -(right - others) / (ordered[:, 0] - ordered[:, 2] + 1e-12)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels, reduction="none")


_LOSSES = {"ce": _cross_entropy, "dlr": difference_of_logits_ratio}


def _within(points: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(points, low), high)


def _choose(chosen: Tensor, points: Tensor, otherwise: Tensor) -> Tensor:
    """Rows of pictures [n,3,H,W] by a bool [n]."""
    return torch.where(chosen[:, None, None, None], points, otherwise)
