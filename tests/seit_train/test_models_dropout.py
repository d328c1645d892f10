"""Dropout from few random bits: the same share, the same mean, and as torch's own elsewhere."""

import pytest
import torch
from torch import nn

from seit_train.models.dropout import DeviceDropout, use_device_dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_as_many_values_fall_as_are_asked_for_and_the_mean_stays(dtype) -> None:
    torch.manual_seed(0)
    seen = DeviceDropout(0.1)(torch.ones(1001, 999, dtype=dtype))
    assert seen.dtype == dtype
    assert float((seen == 0).float().mean()) == pytest.approx(0.1, abs=1e-3)
    assert float(seen.float().mean()) == pytest.approx(1.0, abs=3e-3)
    assert len(seen.unique()) == 2


def test_all_four_values_of_a_random_word_fall_alike_and_by_themselves() -> None:
    torch.manual_seed(0)
    fallen = (DeviceDropout(0.25)(torch.ones(400_000)) == 0).view(-1, 4).double()
    torch.testing.assert_close(fallen.mean(0), torch.full((4,), 0.25).double(), atol=5e-3, rtol=0)
    together = fallen.T @ fallen / len(fallen)
    apart = together - torch.diag(together.diag()) + torch.eye(4).double() * 0.0625
    torch.testing.assert_close(apart, torch.full((4, 4), 0.0625).double(), atol=3e-3, rtol=0)


def test_gradients_flow_through_what_was_kept() -> None:
    values = torch.ones(1000, requires_grad=True)
    seen = DeviceDropout(0.5)(values)
    seen.sum().backward()
    assert torch.equal(values.grad, seen.detach())


def test_the_same_seed_drops_the_same_and_evaluation_drops_nothing() -> None:
    drop, values = DeviceDropout(0.3), torch.randn(77)
    first, second = (torch.manual_seed(5) and drop(values) for _ in range(2))
    assert torch.equal(first, second)
    assert drop.eval()(values) is values
    assert DeviceDropout(0.0)(values).equal(values) and DeviceDropout(1.0)(values).abs().sum() == 0


def test_it_takes_the_place_of_every_dropout_of_a_model() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(0.2)), nn.Dropout2d(0.1))
    use_device_dropout(model)
    assert isinstance(model[1][0], DeviceDropout) and model[1][0].p == 0.2
    assert type(model[2]) is nn.Dropout2d
