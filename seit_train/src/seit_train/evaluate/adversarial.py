"""Accuracy under attack, and what such figures are worth.

An attack of pictures follows the gradient of a path through the tokenizer (`picture_path.py`); what
it finds is rounded to bytes, as any picture is, and judged by the run as it stands. Pictures that
fall to a small change count as fallen to every larger one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seit_train.data import TokenBatch
from seit_train.evaluate.apgd import Apgd, LossName, attack
from seit_train.evaluate.gallery import Decoded, Gallery
from seit_train.evaluate.greedy_ids import columns_of
from seit_train.evaluate.on_images import TokenGallery
from seit_train.evaluate.picture_path import AttackedPath, Quantiser
from seit_train.evaluate.trained import Trained
from tokenstore.errors import UsageError
from tokenstore.progress import WorkProgress

CAUTION = (
    "caution: these are upper bounds of robustness. A quantiser has no gradient, so attacks "
    "through a tokenizer follow a substitute, and a model whose gradients are obfuscated looks "
    "robust without being so (Athalye et al., 2018). Compare straight-through, left-out and "
    "greedy-ids, and do not read the highest as a defence."
)
_STEPS = 100  # gradients of an attack, as published


@dataclass(frozen=True)
class PictureAttack:
    """What is asked.

    Attributes:
        loss: which one the attack raises.
        eps: greatest changes of a pixel's values, in steps of the 255 that a byte has.
        quantiser: what stands for the nearest code.
        steps: gradients of an attack.
        seed: of where attacks start.
    """

    loss: LossName
    eps: tuple[int, ...]
    quantiser: Quantiser = "straight-through"
    steps: int = _STEPS
    seed: int = 0


def judge_attacked(trained: Trained, gallery: Gallery, asked: PictureAttack) -> dict[str, Any]:
    """Top-1 under an attack by the size of its changes.

    Returns:
        `rows` with `eps`, `top1` of the run itself, and `top1_path` of the path that was attacked,
        which differ where the path leaves the quantiser out.

    Raises:
        UsageError: a run, a tokenizer or targets that cannot be attacked so, or no images.
    """
    among = torch.tensor(gallery.targets.among, device=trained.world.device)
    path = attacked_path(trained, gallery, asked.quantiser)
    gallery.targets.refuse_sets()
    if asked.loss == "dlr" and len(among) < 3:
        raise UsageError("apgd-dlr compares three classes, and there are two; use apgd-ce")
    sizes = sorted({0, *asked.eps})
    battle = _Battle(trained, gallery, path, asked, sizes, among)
    right, count = np.zeros((len(sizes), 2), np.int64), 0
    with WorkProgress("attacking", total=len(gallery), unit="images") as progress:
        for decoded in gallery.decoded():
            count += len(decoded.images)
            for part in _parts(decoded, path):
                right += battle.survivors(part)
            progress.advance(len(decoded.images))
    if count == 0:
        raise UsageError("there is no image to evaluate on")
    rows = [
        {"eps": size, "top1": int(run) / count, "top1_path": int(way) / count}
        for size, (run, way) in zip(sizes, right, strict=True)
    ]
    name = f"apgd-{asked.loss}, quantiser {asked.quantiser}, {asked.steps} steps"
    return {"name": name, "rows": rows, "caution": CAUTION}


def attacked_path(
    trained: Trained, gallery: Gallery, quantiser: Quantiser
) -> Callable[[Tensor], Tensor]:
    """Logits of float pictures [n,3,H,W], 0..1, with a gradient.

    Raises:
        UsageError: a run, tokenizer or embedding for which there is no such path.
    """
    if isinstance(gallery, TokenGallery):
        return AttackedPath(trained, gallery.tokenizer, quantiser).to(trained.world.device)
    if quantiser == "left-out":
        raise UsageError("a run on pixels has no quantiser to leave out")
    model = trained.model.requires_grad_(False)
    return lambda images: trained.task.logits(model, _as_batch(255 * images))


@dataclass(frozen=True)
class _Battle:
    """All that stays the same from one batch of an attack to the next."""

    trained: Trained
    gallery: Gallery
    path: Callable[[Tensor], Tensor]
    asked: PictureAttack
    sizes: list[int]
    among: Tensor

    def survivors(self, decoded: Decoded) -> NDArray[np.int64]:
        """How many pictures are right under each size, by the run and by the path: [sizes,2]."""
        if decoded.targets is None:
            raise UsageError("pictures without classes cannot be attacked")
        labels = columns_of(decoded.targets.to(self.among.device), self.among)
        rng = torch.Generator().manual_seed(self.asked.seed + int(decoded.numbers[0]))
        stands = torch.ones(len(labels), 2, dtype=torch.bool, device=labels.device)
        found = []
        for size in self.sizes:
            alive = stands.any(dim=1)
            if alive.any():
                some = _rows(decoded, alive)
                images = self._changed(some, labels[alive], size, rng)
                stands[alive] &= self._right(some._replace(images=images), labels[alive])
            found.append(stands.sum(dim=0).tolist())
        return np.array(found)

    def _changed(
        self, decoded: Decoded, labels: Tensor, size: int, rng: torch.Generator
    ) -> NDArray[np.uint8]:
        """Pictures after the attack, uint8 [n,H,W,3], no byte further than `size` from before."""
        images = self._as_float(decoded.images)
        asked = Apgd(self.asked.loss, size / 255, self.asked.steps)
        changed = attack(self._logits, images, labels, asked, rng)
        return (255 * changed).round().byte().permute(0, 2, 3, 1).cpu().numpy()

    def _right(self, decoded: Decoded, labels: Tensor) -> Tensor:
        """Whether the run and the path tell the right classes, bool [n,2]."""
        with self.trained.computing():
            said = self.trained.task.logits(self.trained.model, self.gallery.batch(decoded))
        with torch.no_grad():
            followed = self._logits(self._as_float(decoded.images))
        answers = [said[:, self.among].argmax(dim=1), followed.argmax(dim=1)]
        return torch.stack(answers, dim=1) == labels[:, None]

    def _logits(self, images: Tensor) -> Tensor:
        return self.path(images)[:, self.among]

    def _as_float(self, images: NDArray[np.uint8]) -> Tensor:
        """Uint8 [n,H,W,3] -> float32 [n,3,H,W], 0..1."""
        return torch.from_numpy(images).to(self.among.device).permute(0, 3, 1, 2).float() / 255


def _rows(decoded: Decoded, chosen: Tensor) -> Decoded:
    """Some of the pictures of a batch, by a bool [n]."""
    numbers = chosen.nonzero()[:, 0].tolist()
    return Decoded(
        decoded.images[numbers],
        None if decoded.targets is None else decoded.targets[numbers],
        decoded.numbers[numbers],
        [decoded.keys[number] for number in numbers] if decoded.keys else [],
    )


def _parts(decoded: Decoded, path: Callable[[Tensor], Tensor]) -> Iterator[Decoded]:
    """A batch in parts whose weights of all codes at all places fit."""
    count = len(decoded.images)
    at_once = count
    if isinstance(path, AttackedPath):
        places = decoded.images[0, :, :, 0].size // path.codes.stride**2
        at_once = path.ids.images_at_once(places)
    for start in range(0, count, at_once):
        chosen = torch.zeros(count, dtype=torch.bool)
        chosen[start : start + at_once] = True
        yield _rows(decoded, chosen)


def _as_batch(images: Tensor) -> TokenBatch:
    """Float pictures as a run on pixels is fed them."""
    valid = torch.ones(len(images), dtype=torch.bool, device=images.device)
    return TokenBatch(images, None, valid, valid.long(), None)
