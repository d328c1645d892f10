"""Groups, decay and rates of the optimizer."""

import math

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from seit_train.config import RunConfig
from seit_train.models.vit import layer_of as vit_layer_of
from seit_train.optim import make_optimizer, make_schedule, parameter_groups


def config(**optim):
    return RunConfig(task="x", steps=100, batch_size=8, lr=1.0, optim=optim)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.pos_embed = nn.Parameter(torch.zeros(1, 2, 4))
        self.norm = nn.LayerNorm(4)
        self.frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)
        self.head = nn.Linear(4, 2)


def layer_of(name):
    return {"stem": 0, "pos_embed": 0, "norm": 1, "head": 2}[name.partition(".")[0]]


def by_name(model, groups):
    """name -> (weight decay, scale)"""
    names = {parameter: name for name, parameter in model.named_parameters()}
    pairs = ((group, parameter) for group in groups for parameter in group["params"])
    return {names[p]: (group["weight_decay"], group["lr_scale"]) for group, p in pairs}


def test_matrices_decay_and_norms_biases_and_positions_do_not():
    model = Small()
    found = by_name(model, parameter_groups(model, config(weight_decay=0.1).optim, layer_of))
    decayed = {name for name, (decay, _) in found.items() if decay}
    assert decayed == {"stem.weight", "head.weight"}
    assert "frozen" not in found
    assert len(found) == 7


def test_layer_decay_slows_the_early_layers():
    model = Small()
    found = by_name(model, parameter_groups(model, config(layer_decay=0.5).optim, layer_of))
    scales = {name: scale for name, (_, scale) in found.items()}
    assert (scales["head.weight"], scales["norm.bias"], scales["stem.weight"]) == (1.0, 0.5, 0.25)


def test_layer_decay_is_timm_s_on_timm_s_vit():
    model = timm.create_model("vit_tiny_patch16_224", depth=3, num_classes=5)
    settings = config(layer_decay=0.65, weight_decay=0.1).optim
    ours = by_name(model, parameter_groups(model, settings, lambda name: vit_layer_of(name, 3)))
    undecayed = model.no_weight_decay()
    theirs = by_name(model, param_groups_layer_decay(model, 0.1, undecayed, layer_decay=0.65))
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        assert values == pytest.approx(theirs[name]), name


def rates(steps, steps_per_epoch=10.0, layer_decay=None, **optim):
    model, settings = Small(), config(layer_decay=layer_decay, **optim)
    optimizer = make_optimizer(model, settings, layer_of)
    schedule = make_schedule(optimizer, settings, steps, steps_per_epoch)
    found = []
    for step in range(1, steps + 1):
        schedule.step_update(step)
        found.append([group["lr"] for group in optimizer.param_groups])
    return [max(step) for step in found] if layer_decay is None else found


def test_warm_up_is_linear_and_reaches_the_rate():
    assert rates(100, warmup_epochs=1)[:10] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert rates(100, warmup_steps=4)[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_cosine_falls_from_the_rate_to_the_minimum():
    found = rates(100, warmup_steps=10, min_lr=0.1)
    expected = [0.1 + 0.45 * (1 + math.cos(math.pi * k / 91)) for k in range(91)]
    assert found[9:] == pytest.approx(expected)
    assert 0.1 < found[-1] < 0.101


def test_poly_falls_linearly_and_constant_stays():
    assert rates(100, schedule="poly", warmup_steps=20)[20:22] == pytest.approx([80 / 81, 79 / 81])
    assert set(rates(50, schedule="constant")) == {1.0}


@pytest.mark.parametrize("schedule", ["cosine", "poly", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_short_runs_have_a_rate_at_every_step(schedule, steps):
    assert all(rate > 0 for rate in rates(steps, schedule=schedule))
    assert all(rate > 0 for rate in rates(steps, schedule=schedule, warmup_steps=5))


def test_the_schedule_scales_every_layer_alike():
    first, last = rates(100, layer_decay=0.5)[0], rates(100, layer_decay=0.5)[-1]
    assert [a / b for a, b in zip(first, last, strict=True)] == pytest.approx(
        [first[0] / last[0]] * len(first)
    )


def test_sgd_is_nesterov_with_the_configured_momentum():
    optimizer = make_optimizer(Small(), config(optimizer="sgd", momentum=0.8), layer_of)
    assert isinstance(optimizer, torch.optim.SGD)
    assert {(g["momentum"], g["nesterov"]) for g in optimizer.param_groups} == {(0.8, True)}
