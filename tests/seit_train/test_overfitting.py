"""Every task and every method learns 32 images by heart: to below 5% of the loss it begins with.

Smoothing, dropout and augmentation are off, half of the positions are masked. The images are random
ranks, so nothing but memory helps.
"""

import pytest
import torch

from tests.toy_facts import make_batch, make_facts, seeded
from tokenstore.registry import find, names

FACTS = make_facts(side=6, codes=30, classes=4)
STEPS, RATE = 260, 8e-3
VIT = {"width": 64, "depth": 2, "heads": 4, "drop_path": 0.0}
# The head multiplies normed vectors with rows of length 1: wide ones can say more.
IDS = {"ids": {"width": 64, "dropout": 0.0}}
MASKED = {
    "model": {
        "encoder": VIT,
        "decoder": {"width": 64, "depth": 1, "heads": 2, "dropout": 0.0},
        **IDS,
    },
    "mask": {"low": 0.5, "high": 0.5},
}
SMALL = {"hidden": 128, "out": 32}
SLOW = pytest.mark.slow
CASES = {
    "classify": {"model": {**VIT, "stem": "conv2x2"}, "label_smoothing": 0.0},
    "classify from ids": {
        "model": {**VIT, **IDS, "stem": "conv2x2", "embedding": "ids"},
        "label_smoothing": 0.0,
    },
    "tokenadapt": {"model": {"width": 64, "heads": 2}},
    "mtm": MASKED,
    "mtm simmim": {**MASKED, "method": "simmim"},
    "mtm mage": {**MASKED, "method": "mage", "mage": {"label_smoothing": 0.0}},
    "mtm mage-c": {
        **MASKED,
        "method": "mage",
        "mage": {"label_smoothing": 0.0, "contrast": 0.1, "contrastive": SMALL},
    },
    "mtm lut": {**MASKED, "method": "lut", "lut": {"context": SMALL}},
    "mtm lut on simmim": {
        **MASKED,
        "method": "lut",
        "lut": {"base": "simmim", "context": SMALL},
    },
    "mtm lut alone": {**MASKED, "method": "lut", "lut": {"base": None, "context": SMALL}},
}
TWO_VIEWS = {"mtm mage-c", "mtm lut", "mtm lut on simmim", "mtm lut alone"}  # twice the work


def test_no_task_is_left_out():
    assert {name.partition(" ")[0] for name in CASES} == set(names("seit_train.tasks"))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[SLOW] if n in TWO_VIEWS else []) for n in CASES]
)
def test_32_images_are_learnt_by_heart(name):
    kind = find("seit_train.tasks", name.partition(" ")[0])
    settings = {"augment": [], **CASES[name]}
    if "augment" not in kind.Config.model_fields:
        del settings["augment"]
    run = {"task": kind.name, "steps": STEPS, "batch_size": 32, "lr": RATE}
    task = kind(kind.Config(**run, **settings), FACTS)
    torch.manual_seed(0)
    model, batch = task.build_model().train(), make_batch(FACTS, 32)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.0)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS, pct_start=0.1)
    first = task.loss(model, batch, seeded(0)).loss.item()
    for step in range(STEPS):
        optimizer.zero_grad()
        task.loss(model, batch, seeded(step)).loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        rates.step()
        task.after_step(model, (step + 1) / STEPS)
    ends = [task.loss(model, batch, seeded(s)).loss.item() for s in range(999, 1003)]
    assert sum(ends) / len(ends) < 0.05 * first
