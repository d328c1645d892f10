"""Optim: parameters to groups, groups to optimizer, steps to learning rates.

torch's optimizers and timm's schedules do the work; decided here is which parameters decay, how a
layer's rate falls with its distance from the output, and that the rate is a pure function of the
step, so that a resumed run needs no state of a schedule.
"""

from collections.abc import Callable
from typing import Any

import torch
from timm.scheduler import CosineLRScheduler, PolyLRScheduler, StepLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import nn

from seit_train.config import OptimConfig, RunConfig

# Names of parameters that are positions or single learned tokens: decaying them pulls every image
# towards the origin and helps nothing, so published recipes leave them out as they do biases.
_UNDECAYED = ("pos_embed", "cls_token", "mask_token", "pad_token")


def make_optimizer(
    model: nn.Module, config: RunConfig, layer_of: Callable[[str], int]
) -> torch.optim.Optimizer:
    """The optimizer of a run over the parameters of an unwrapped model.

    Args:
        model: on its final device.
        config: of the run.
        layer_of: depth of a parameter by name, 0 = input; only asked with layer decay.
    """
    optim, groups = config.optim, parameter_groups(model, config.optim, layer_of)
    if optim.optimizer == "sgd":
        momentum = optim.momentum
        return torch.optim.SGD(
            groups, lr=config.lr, momentum=momentum, nesterov=momentum > 0, fused=True
        )
    return torch.optim.AdamW(groups, lr=config.lr, betas=optim.betas, fused=True)


def parameter_groups(
    model: nn.Module, optim: OptimConfig, layer_of: Callable[[str], int]
) -> list[dict[str, Any]]:
    """Parameters by (weight decay, layer), each group with timm's `lr_scale`.

    The scale is 1 for the last layer and `layer_decay` times less for each one before it (BEiT,
    section A; MAE, table 9).
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    decay = optim.layer_decay
    layers = {name: 0 if decay is None else layer_of(name) for name in parameters}
    last = max(layers.values(), default=0)
    groups: dict[tuple[float, int], dict[str, Any]] = {}
    for name, parameter in parameters.items():
        layer = layers[name]
        weight_decay = optim.weight_decay if _decays(name, parameter) else 0.0
        scale = 1.0 if decay is None else decay ** (last - layer)
        empty = {"params": [], "weight_decay": weight_decay, "lr_scale": scale}
        groups.setdefault((weight_decay, layer), empty)["params"].append(parameter)
    return list(groups.values())


def make_schedule(
    optimizer: torch.optim.Optimizer, config: RunConfig, steps: int, steps_per_epoch: float
) -> Scheduler:
    """The schedule of a run: `step_update(step)` sets the rate of step 1, 2, ..., `steps`.

    The warm-up is linear and part of the run; the shape after it spans the remaining steps. Neither
    the first nor the last step is wasted on a rate of zero.
    """
    optim = config.optim
    warmup = optim.warmup_steps
    if warmup is None:
        warmup = round(optim.warmup_epochs * steps_per_epoch)
    warmup = min(warmup, steps)
    common: dict[str, Any] = {"warmup_t": warmup, "warmup_prefix": True, "t_in_epochs": False}
    if optim.schedule == "constant":
        return StepLRScheduler(optimizer, decay_t=steps, decay_rate=1.0, **common)
    common |= {"t_initial": max(2, steps - warmup + 1), "lr_min": optim.min_lr}
    if optim.schedule == "poly":
        return PolyLRScheduler(optimizer, power=1.0, **common)
    return CosineLRScheduler(optimizer, **common)


def _decays(name: str, parameter: nn.Parameter) -> bool:
    """Matrices and kernels decay; vectors (norms, biases) and `_UNDECAYED` do not."""
    return parameter.ndim >= 2 and not name.endswith(_UNDECAYED)
