"""MFU: operations as they are by hand, peaks by name, and nothing made up."""

import pytest
import torch
from torch import nn

from seit_train.launch import train
from seit_train.metrics import read_metrics
from seit_train.models.stem import StemAdapter
from seit_train.models.vit import TokenViT, VitConfig
from seit_train.utilisation import count_flops, device_peak, memory_scalars, peak_flops


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989e12),
        ("NVIDIA H100 PCIe", "bf16", 756e12),
        ("NVIDIA H200", "bf16", 989e12),
        ("NVIDIA A100-SXM4-40GB", "fp16", 312e12),
        ("Tesla V100-SXM2-16GB", "fp16", 125e12),
        ("Tesla V100-SXM2-16GB", "bf16", None),
        ("NVIDIA A100-SXM4-40GB", "fp32", None),
        ("NVIDIA L40S", "bf16", 362e12),
        ("NVIDIA L4", "bf16", 121e12),
        ("NVIDIA A4000", "bf16", None),
        ("Some GPU of tomorrow", "bf16", None),
    ],
)
def test_a_peak_is_known_by_name_or_not_at_all(name, precision, peak):
    assert peak_flops(name, precision) == peak


def test_a_cpu_has_no_peak_and_no_gpu_memory():
    assert device_peak(torch.device("cpu"), "bf16") is None
    assert memory_scalars(torch.device("cpu")) == {}


def test_the_memory_of_a_gpu_is_the_most_since_the_last_look(monkeypatch):
    peaks = [3 << 29]
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: peaks[-1])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: peaks.append(0))
    gpu = torch.device("cuda")
    assert [memory_scalars(gpu)["gpu_memory_gib"] for _ in range(2)] == [1.5, 0]


def test_operations_are_those_counted_by_hand():
    """Three products of the same size a layer: forward, by the weights, by what came before."""
    torch.manual_seed(0)
    model = TokenViT(StemAdapter("conv2x2", 32, 6), (8, 8), VitConfig(width=32, depth=2, heads=2))
    images, tokens, width = 3, 1 + 16, 32
    linear = 2 * tokens * 12 * width**2  # qkv 3, projection 1, MLP 4 + 4
    attention = 2 * 2 * tokens**2 * width
    stem = 2 * 16 * 4 * 6 * width
    by_hand = images * (2 * 3 * (linear + attention) + 2 * stem)
    grids = torch.randn(images, 6, 8, 8)
    counted = count_flops(model, lambda: model(grids).sum())
    assert counted == pytest.approx(by_hand, rel=0.01)


def test_counting_leaves_gradients_and_buffers_alone():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert count_flops(model, lambda: model(torch.randn(8, 4)).square().sum()) > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_mfu_is_what_the_rate_makes_of_the_operations(request_run, monkeypatch):
    plain = train(request_run("classify", folder="plain"))
    monkeypatch.setattr("seit_train.trainer.device_peak", lambda *_: 1e12)
    timed = train(request_run("classify", folder="timed"))
    lines = [line for line in read_metrics(timed.run.folder) if "loss" in line]
    shares = [line["mfu"] / line["images_per_second"] for line in lines]
    assert shares[0] == pytest.approx(shares[-1])
    assert 1e6 < shares[0] * 1e12 < 1e8  # a ViT of width 32 and depth 2 on 17 tokens
    assert all("mfu" not in line for line in read_metrics(plain.run.folder))
    losses = [
        [line["loss"] for line in read_metrics(run.folder) if "loss" in line]
        for run in (plain.run, timed.run)
    ]
    assert losses[0] == losses[1]
