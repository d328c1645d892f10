"""Checkpoints: complete, without code, and whole at any moment."""

import pytest
import torch
from torch import nn

from seit_train import checkpoint as module
from seit_train.checkpoint import (
    Checkpoint,
    has_checkpoint,
    load_checkpoint,
    load_optimizer,
    load_weights,
    optimizer_tensors,
    save_checkpoint,
)
from tokenstore.errors import TrainingError


def example(step=1):
    weights = {"w": torch.full((3, 2), float(step)), "half": torch.ones(2, dtype=torch.bfloat16)}
    return Checkpoint(
        weights, {"optimizer/w/exp_avg": torch.rand(3, 2)}, {"step": step}, {"a": "b"}
    )


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    saved = example()
    save_checkpoint(tmp_path / "checkpoints" / "last", saved)
    loaded = load_checkpoint(tmp_path / "checkpoints" / "last")
    assert loaded.state == saved.state
    assert loaded.origin["a"] == "b"
    for name, tensor in saved.weights.items():
        assert torch.equal(loaded.weights[name], tensor)
    for name, tensor in saved.tensors.items():
        assert torch.equal(loaded.tensors[name], tensor)


def test_a_newer_checkpoint_replaces_the_older_and_leaves_nothing_else(tmp_path):
    for step in (1, 2):
        save_checkpoint(tmp_path / "last", example(step))
    assert load_checkpoint(tmp_path / "last").state["step"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["last"]
    names = {path.name for path in (tmp_path / "last").iterdir()}
    assert names == {"model.safetensors", "state.safetensors", "state.json"}


@pytest.mark.parametrize("function", ["save_file", "_flush"])
def test_a_kill_while_writing_leaves_the_old_one(tmp_path, monkeypatch, function):
    save_checkpoint(tmp_path / "last", example(1))

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, function, killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path / "last", example(2))
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "last").state["step"] == 1
    save_checkpoint(tmp_path / "last", example(3))
    assert load_checkpoint(tmp_path / "last").state["step"] == 3


def test_a_kill_between_the_two_renames_leaves_the_old_one(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "last", example(1))
    rename = type(tmp_path).rename

    def killed(path, target):
        if path.name == ".last.new":
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path / "last", example(2))
    assert has_checkpoint(tmp_path / "last")
    assert load_checkpoint(tmp_path / "last").state["step"] == 1


def test_a_folder_without_checkpoint_has_none(tmp_path):
    assert not has_checkpoint(tmp_path / "last")


@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors", "state.json"])
def test_a_damaged_or_missing_file_is_named(tmp_path, name):
    save_checkpoint(tmp_path / "last", example())
    file = tmp_path / "last" / name
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(TrainingError, match="cannot be read"):
        load_checkpoint(tmp_path / "last")
    file.unlink()
    with pytest.raises(TrainingError, match="cannot be read"):
        load_checkpoint(tmp_path / "last")


def test_a_pickle_is_not_opened(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(TrainingError, match="cannot be read"):
        load_weights(tmp_path / "model.safetensors")


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_an_optimizer_goes_on_as_if_never_saved(kind, tmp_path):
    torch.manual_seed(0)
    options = {"lr": 0.1} if kind is torch.optim.AdamW else {"lr": 0.1, "momentum": 0.9}
    models = [nn.Linear(4, 3), nn.Linear(4, 3)]
    models[1].load_state_dict(models[0].state_dict())
    grouped = [[{"params": [m.bias]}, {"params": [m.weight]}] for m in models]
    first, second = (kind(groups, **options) for groups in grouped)
    data = torch.randn(5, 4)

    def step(model, optimizer):
        optimizer.zero_grad()
        model(data).square().sum().backward()
        optimizer.step()

    step(models[0], first)
    models[1].load_state_dict(models[0].state_dict())
    tensors = optimizer_tensors(first, models[0])
    assert all(name.startswith(("optimizer/weight/", "optimizer/bias/")) for name in tensors)
    save_checkpoint(tmp_path / "c", Checkpoint(models[0].state_dict(), tensors, {}, {}))
    load_optimizer(second, models[1], load_checkpoint(tmp_path / "c").tensors)
    for _ in range(2):
        step(models[0], first)
        step(models[1], second)
    assert torch.equal(models[0].weight, models[1].weight)
