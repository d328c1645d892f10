"""The linear probe: one layer learns, and nothing else moves."""

import torch
from safetensors.torch import load_file
from torch import nn

from seit_train.launch import train
from seit_train.models.probe import LinearProbe


def test_the_backbone_is_as_in_evaluation_whatever_the_mode():
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.5))
    probe = LinearProbe(backbone, 5, 3).train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    batch = torch.randn(16, 6)
    loss = probe(batch).square().sum()
    loss.backward()
    assert torch.equal(backbone(batch), backbone(batch))
    assert all(torch.equal(v, before[name]) for name, v in backbone.state_dict().items())
    learnt = [name for name, parameter in probe.named_parameters() if parameter.grad is not None]
    assert learnt == ["head.weight", "head.bias"]


def test_features_reach_the_layer_with_mean_0_and_deviation_1():
    torch.manual_seed(0)
    probe = LinearProbe(nn.Identity(), 5, 3).train()
    features = 100 + 7 * torch.randn(256, 5)
    normed = probe.probe_norm(features)
    torch.testing.assert_close(normed.mean(dim=0), torch.zeros(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(normed.std(dim=0, correction=0), torch.ones(5), atol=1e-4, rtol=0)


def test_a_probe_of_a_masked_run_trains_the_head_only(request_run):
    masked = train(request_run("mtm", folder="masked")).run
    sgd = ("probe=linear", "optim.optimizer=sgd", "optim.weight_decay=0", "lr=0.5", "steps=12")
    outcome = train(request_run("classify", *sgd, folder="probe", init=str(masked.folder)))
    encoder = load_file(masked.result() / "model.safetensors")
    probe = load_file(outcome.run.last / "model.safetensors")
    for name in ("blocks.1.attn.qkv.weight", "patch_embed.ids.table.weight", "norm.bias"):
        assert torch.equal(probe[f"backbone.{name}"], encoder[f"encoder.{name}"])
    assert probe["head.weight"].abs().mean() > 0.01
    state = load_file(outcome.run.last / "state.safetensors")
    assert {name.split("/")[1] for name in state} == {"head.weight", "head.bias"}
    assert outcome.best > 0.25  # chance


def test_a_probe_goes_on_after_a_stop(request_run, monkeypatch):
    import pytest

    from tests.seit_train.test_trainer import kill_in_step
    from tokenstore.errors import Interrupted

    words = ("probe=linear", "optim.optimizer=sgd")
    whole = train(request_run("classify", *words, folder="whole")).run
    with monkeypatch.context() as patch:
        kill_in_step(patch, 2)
        with pytest.raises(Interrupted):
            train(request_run("classify", *words, folder="cut"))
    cut = train(request_run("classify", *words, folder="cut", resume=True)).run
    expected, found = (load_file(run.last / "model.safetensors") for run in (whole, cut))
    assert all(torch.equal(weight, found[name]) for name, weight in expected.items())
